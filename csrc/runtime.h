// What the binding calls: which variant runs here, and its kernels.
#pragma once

#include <chrono>
#include <vector>

#include "api.h"
#include "subnormals.h"
#include "thresholds.h"

namespace fastrnn {

// The kernels of one cell and number type: of the numbers as they are, and of split ones, best first.
struct Kernels {
    const Kernel* whole;
    std::vector<const Kernel*> split;

    Path forward_path(const Call& call) const { return best_path(call, &Kernel::forward_path); }
    Path backward_path(const Call& call) const { return best_path(call, &Kernel::backward_path); }
    // What hinders a call on its path; null if nothing does.
    const char* forward_hindrance(const Call& call) const;
    const char* backward_hindrance(const Call& call) const;
    // False if the call was stopped; `ran` is what was done.
    bool forward(const ForwardCall& call, Ran& ran) const;
    bool backward(const BackwardCall& call, Ran& ran) const;

  private:
    const Kernel* of(const Path& path) const;
    Path best_path(const Call& call, Path (*Kernel::*path)(const Call&)) const;
};

// The best variant that this processor can run; the one called `wanted`, if that is given and can run.
const Variant* find_variant(const char* wanted);

// Names of all variants, best first, a blank after each.
const char* variant_names();

// For every cell and number type the kernels of a variant and of those below it.
std::vector<Kernels> all_kernels(const Variant* variant);

// Index of the kernels of a cell and number type, or -1.
int find_kernels(const std::vector<Kernels>& kernels, const char* cell, int bytes);

// What the calling thread's last call has done, layer by layer and direction by direction, and how many of these ran at
// the same time.
struct LastCall {
    std::vector<Ran> layers;
    int at_once = 1;
};
LastCall& last_call();

// While it lives, the calling thread's kernels ask `check` now and then whether to end.
class Interruptible {
  public:
    Interruptible() = default;
    ~Interruptible();
    Interruptible(const Interruptible&) = delete;
    Interruptible& operator=(const Interruptible&) = delete;

    // `check` returns whether the call is to end. It runs in the floating-point mode that the caller has.
    const Stop* begin(bool (*check)());
    void look();

  private:
    using Clock = std::chrono::steady_clock;
    Stop stop;
    bool (*check)() = nullptr;
    FlushSubnormals::Mode mode;
    Clock::time_point next;
    Interruptible* outer;
};

// Memory for what a forward pass keeps, null if there is none; `give_buffer` takes it back, for the next one.
void* take_buffer(size_t bytes);
void give_buffer(void* at, size_t bytes);

}  // namespace fastrnn
