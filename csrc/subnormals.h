// Subnormal numbers count as zero while a kernel runs: an operation on one takes a hundred cycles and more, and the
// gradients of saturated gates are full of them.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace fastrnn {

// Sets the calling thread's floating-point mode to flush subnormals, and restores it at the end of its lifetime.
class FlushSubnormals {
  public:
    FlushSubnormals() : before(mode()) { set_mode(before | flush); }
    ~FlushSubnormals() { set_mode(before); }
    FlushSubnormals(const FlushSubnormals&) = delete;
    FlushSubnormals& operator=(const FlushSubnormals&) = delete;

#if defined(__x86_64__) || defined(_M_X64)
    using Mode = unsigned;
    static constexpr Mode flush = 0x8040;  // MXCSR: flush to zero, denormals are zero
    static Mode mode() { return _mm_getcsr(); }
    static void set_mode(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
    using Mode = uint64_t;
    static constexpr Mode flush = uint64_t(1) << 24;  // FPCR.FZ: of operands and results
    static Mode mode() {
        Mode mode;
        asm volatile("mrs %0, fpcr" : "=r"(mode));
        return mode;
    }
    static void set_mode(Mode mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }
#else
    using Mode = unsigned;
    static constexpr Mode flush = 0;
    static Mode mode() { return 0; }
    static void set_mode(Mode) {}
#endif

  private:
    const Mode before;
};

}  // namespace fastrnn
