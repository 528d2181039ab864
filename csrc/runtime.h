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

    Path forward_path(const Call& call) const { return path(call, &Kernel::forward); }
    Path backward_path(const Call& call) const { return path(call, &Kernel::backward); }
    // What hinders a call on its path; null if nothing does.
    const char* forward_hindrance(const Call& call) const { return hindrance(call, &Kernel::forward); }
    const char* backward_hindrance(const Call& call) const { return hindrance(call, &Kernel::backward); }
    // False if the call was stopped; `ran` is what was done.
    bool forward(const ForwardCall& call, Ran& ran) const { return run(call, ran, &Kernel::forward); }
    bool backward(const BackwardCall& call, Ran& ran) const { return run(call, ran, &Kernel::backward); }

  private:
    template <class C> using Way = Direction<C> Kernel::*;

    // The kernel that splits numbers in so many; null if there is none.
    const Kernel* of(int bf16_parts) const {
        if (bf16_parts == 0) return whole;
        for (const Kernel* kernel : split)
            if (kernel->bf16_parts == bf16_parts) return kernel;
        return nullptr;
    }
    template <class C> Path path(const Call& call, Way<C> way) const {
        if (const Kernel* kernel = of(call.bf16_parts)) {
            const Path found = (kernel->*way).path(call);
            if (found.bf16_parts) return found;
        }
        return (whole->*way).path(call);
    }
    template <class C> const char* hindrance(const Call& call, Way<C> way) const {
        const Kernel* kernel = of(call.path.bf16_parts);
        return kernel ? (kernel->*way).hindrance(call) : "bf16_parts: no kernel splits numbers in so many";
    }
    template <class C> bool run(const C& call, Ran& ran, Way<C> way) const {
        const FlushSubnormals flush;
        const Outcome outcome = (of(call.path.bf16_parts)->*way).run(call, ran);
        if (outcome != Outcome::not_finite) return outcome == Outcome::done;
        C again = call;
        again.path = (whole->*way).path(call);
        ran = {};
        return (whole->*way).run(again, ran) == Outcome::done;
    }
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
