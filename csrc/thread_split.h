// How a call is divided between threads.
#pragma once

#include <mutex>

#include "packed.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// The parts of a call: shares of the sequences, which are independent; or shares of the units, with a barrier after
// every stage of a step, where each part reads only its share of the weights and a few sequences stay in one register
// tile. What a part computes does not depend on the thread that runs it.
struct ThreadSplit {
    ptrdiff_t N;
    int parts;
    bool by_units;

    ThreadSplit(ptrdiff_t N, const Path& path) : N(N), parts(path.parts), by_units(path.by_units) {}

    // First sequence of a part; the sizes of parts differ by at most one.
    ptrdiff_t begin(int part) const { return by_units ? 0 : N * part / parts; }
    ptrdiff_t end(int part) const { return by_units ? N : N * (part + 1) / parts; }
    // At least 1, even for an empty batch: sizes are divided by it.
    ptrdiff_t most_rows() const {
        const ptrdiff_t rows = by_units ? N : (N + parts - 1) / parts;
        return rows > 0 ? rows : 1;
    }
    // Number of buffers where each part that has sequences of its own needs one.
    ptrdiff_t owners() const { return by_units ? 1 : parts; }
    int owner(int part) const { return by_units ? 0 : part; }
    template <class T> Range units(ptrdiff_t columns, int vectors, int part) const {
        return by_units ? share<T>(columns, vectors, parts, part) : Range{0, columns};
    }
};

// The parts that one thread runs: `first`, `first + stride`, ...; `barrier` is null where it waits for no other thread.
struct Worker {
    int first, stride, parts;
    bool by_units;
    Barrier* barrier;
    const Stop* stop;

    template <class F> void each(F f) const {
        for (int part = first; part < parts; part += stride) f(part);
    }
    void wait() const {
        if (!barrier) return;
        barrier->wait(stop);
        if (stop) TileSession::forget();
    }
    // Whether the call stops here; after a barrier all workers get the same answer.
    bool ended() const {
        if (!stop) return false;
        poll();
        TileSession::forget();
        return barrier ? barrier->stopping() : stop->requested();
    }
    // Number of workers that share the sequences of this one, and its index among them.
    int threads() const { return barrier ? barrier->threads : 1; }
    int number() const { return barrier ? first : 0; }
    // The record of what it does, as far as known here.
    Ran note(int bf16_parts) const {
        Ran ran;
        ran.parts = (parts - first + stride - 1) / stride;
        ran.by_units = by_units;
        ran.bf16_parts = bf16_parts;
        return ran;
    }
    bool leads() const { return !barrier || first == 0; }
};

template <class F> void run_parts(int parts, F f) {
    parallel(parts, [](void* context, int part) { (*static_cast<F*>(context))(part); }, &f);
}

// Calls f(worker) in every thread of a call, and adds up their records.
template <class F> void run_workers(const ThreadSplit& split, const Stop* stop, Ran& ran, F f) {
    const int parts = split.parts;
    if (parts == 1) return ran.add(f(Worker{0, 1, 1, split.by_units, nullptr, stop}));
    std::mutex noting;
    const auto work = [&](const Worker& worker) {
        const Ran own = f(worker);
        std::lock_guard<std::mutex> guard(noting);
        ran.add(own);
    };
    if (!split.by_units)
        return run_parts(parts, [&](int part) { work(Worker{part, parts, parts, false, nullptr, stop}); });
    auto task = [&](int thread, Barrier& barrier) {
        work(Worker{thread, barrier.threads, parts, true, barrier.threads > 1 ? &barrier : nullptr, stop});
    };
    const auto call = [](void* context, int thread, Barrier& barrier) {
        (*static_cast<decltype(task)*>(context))(thread, barrier);
    };
    together(parts, call, &task);
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
