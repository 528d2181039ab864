// Threads: which part of a call each of them does.
#pragma once

#include "panel.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

constexpr int max_threads = 64;

// How a call is divided between threads: by sequences, where no part waits for another; or by units, with a wait after
// every stage of a step: each part then reads only its share of the weights, and few sequences stay in one tile.
// What a part computes does not depend on the thread that runs it.
struct Division {
    ptrdiff_t N;
    int parts;
    bool by_units;

    Division(const Call& call, int matrices) : N(call.N) {
        const ptrdiff_t threads = call.threads < max_threads ? call.threads : max_threads;
        const ptrdiff_t worth = worth_dividing(N, call.H, matrices);
        const ptrdiff_t of_units = worth < threads ? worth : threads;
        const ptrdiff_t of_sequences = N < 1 ? 1 : N < threads ? N : threads;
        by_units = of_units > 1 && of_units >= of_sequences && N < few * of_units;
        parts = int(by_units ? of_units : of_sequences);
    }

    // The first of a part's sequences: parts differ by at most one.
    ptrdiff_t begin(int part) const { return by_units ? 0 : N * part / parts; }
    ptrdiff_t end(int part) const { return by_units ? N : N * (part + 1) / parts; }
    ptrdiff_t most_rows() const { return by_units ? N : (N + parts - 1) / parts; }
    // Of memory that every part has of its own, unless parts are of units.
    ptrdiff_t owners() const { return by_units ? 1 : parts; }
    int owner(int part) const { return by_units ? 0 : part; }
    template <class T> Range units(ptrdiff_t columns, int vectors, int part) const {
        return by_units ? share<T>(columns, vectors, parts, part) : Range{0, columns};
    }
};

// What one thread does of a call: the parts `first`, `first + stride`, ...; it waits for the others at a barrier, if
// there is one.
struct Worker {
    int first, stride, parts;
    Barrier* barrier;

    template <class F> void each(F f) const {
        for (int part = first; part < parts; part += stride) f(part);
    }
    void wait() const {
        if (barrier) barrier->wait();
    }
    bool leads() const { return !barrier || first == 0; }
};

template <class F> void run_parts(int parts, F f) {
    parallel(parts, [](void* context, int part) { (*static_cast<F*>(context))(part); }, &f);
}

// Calls f(worker) in every thread of a call.
template <class F> void run_workers(const Division& division, F f) {
    const int parts = division.parts;
    if (!division.by_units) return run_parts(parts, [&](int part) { f(Worker{part, parts, parts, nullptr}); });
    const auto task = [&](int thread, Barrier& barrier) {
        f(Worker{thread, barrier.threads, parts, barrier.threads > 1 ? &barrier : nullptr});
    };
    using Task = decltype(task);
    together(parts, [](void* context, int thread, Barrier& barrier) { (*static_cast<Task*>(context))(thread, barrier); },
             const_cast<void*>(static_cast<const void*>(&task)));
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
