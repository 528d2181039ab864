// Threads: which part of a call each of them does.
#pragma once

#include <mutex>

#include "packed.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// How a call is divided between threads: by sequences, where no part waits for another; or by units, with a wait after
// every stage of a step: each part then reads only its share of the weights, and few sequences stay in one tile.
// What a part computes does not depend on the thread that runs it.
struct ThreadSplit {
    ptrdiff_t N;
    int parts;
    bool by_units;

    ThreadSplit(ptrdiff_t N, const Path& path) : N(N), parts(path.parts), by_units(path.by_units) {}

    // The first of a part's sequences: parts differ by at most one.
    ptrdiff_t begin(int part) const { return by_units ? 0 : N * part / parts; }
    ptrdiff_t end(int part) const { return by_units ? N : N * (part + 1) / parts; }
    // At least 1: an empty batch runs no step, but sizes are divided by this.
    ptrdiff_t most_rows() const {
        const ptrdiff_t rows = by_units ? N : (N + parts - 1) / parts;
        return rows > 0 ? rows : 1;
    }
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
    // Whether the call is to end here: asked after a wait, all workers get one answer.
    bool ended() const {
        if (!stop) return false;
        poll();
        TileSession::forget();
        return barrier ? barrier->stopping() : stop->requested();
    }
    // Workers that share this one's sequences, and its number among them.
    int threads() const { return barrier ? barrier->threads : 1; }
    int number() const { return barrier ? first : 0; }
    // The note of what it does, with what it knows of that itself.
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

// Calls f(worker) in every thread of a call, and adds up what each of them did.
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
