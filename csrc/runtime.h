// What the binding calls: the kernels of the best variant that runs on this processor.
#pragma once

#include <chrono>
#include <vector>

#include "api.h"
#include "subnormals.h"
#include "thresholds.h"

namespace fastrnn {

// The kernels of one cell and element type: `plain` ones, and those that split their operands into bf16 terms, best
// first.
struct Kernels {
    const Kernel* plain;
    std::vector<const Kernel*> split;

    Path forward_path(const Call& call) const { return path(call, &Kernel::forward); }
    Path backward_path(const Call& call) const { return path(call, &Kernel::backward); }
    // Why a call cannot take its path; null if it can.
    const char* forward_refusal(const Call& call) const { return refusal(call, &Kernel::forward); }
    const char* backward_refusal(const Call& call) const { return refusal(call, &Kernel::backward); }
    // False if the call was stopped; `ran` records what was done.
    bool forward(const ForwardCall& call, Ran& ran) const { return run(call, ran, &Kernel::forward); }
    bool backward(const BackwardCall& call, Ran& ran) const { return run(call, ran, &Kernel::backward); }

  private:
    template <class C> using Way = Direction<C> Kernel::*;

    // The kernel for so many bf16 terms; null if there is none.
    const Kernel* of(int bf16_parts) const {
        if (bf16_parts == 0) return plain;
        for (const Kernel* kernel : split)
            if (kernel->bf16_parts == bf16_parts) return kernel;
        return nullptr;
    }
    template <class C> Path path(const Call& call, Way<C> way) const {
        if (const Kernel* kernel = of(call.bf16_parts)) {
            const Path found = (kernel->*way).path(call);
            if (found.bf16_parts) return found;
        }
        return (plain->*way).path(call);
    }
    template <class C> const char* refusal(const Call& call, Way<C> way) const {
        const Kernel* kernel = of(call.path.bf16_parts);
        return kernel ? (kernel->*way).refusal(call) : "bf16_parts: there is no kernel for so many";
    }
    template <class C> bool run(const C& call, Ran& ran, Way<C> way) const {
        const FlushSubnormals flush;
        const Outcome outcome = (of(call.path.bf16_parts)->*way).run(call, ran);
        if (outcome != Outcome::not_finite) return outcome == Outcome::done;
        C again = call;
        again.path = (plain->*way).path(call);
        ran = {};
        return (plain->*way).run(again, ran) == Outcome::done;
    }
};

// The best variant that this processor can run, or the one called `wanted`; null if that cannot run.
const Variant* find_variant(const char* wanted);

// Names of all variants, best first, a blank after each.
const char* variant_names();

// For every cell and element type, the kernels of a variant and of those below it.
std::vector<Kernels> all_kernels(const Variant* variant);

// Index of the kernels of a cell and element type, or -1.
int find_kernels(const std::vector<Kernels>& kernels, const char* cell, int bytes);

// What the last call of the calling thread did, layer by layer and direction by direction, and how many of these ran at
// the same time.
struct LastCall {
    std::vector<Ran> layers;
    int at_once = 1;
};
LastCall& last_call();

// During its lifetime the kernels of the calling thread call `check` now and then to ask whether to stop.
class Interruptible {
  public:
    Interruptible() = default;
    ~Interruptible();
    Interruptible(const Interruptible&) = delete;
    Interruptible& operator=(const Interruptible&) = delete;

    // `check` returns whether to stop. It runs in the floating-point mode of the caller.
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

// Memory for what a forward pass keeps, null if there is none left; `give_buffer` returns it for the next one.
void* take_buffer(size_t bytes);
void give_buffer(void* at, size_t bytes);

}  // namespace fastrnn
