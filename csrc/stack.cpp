// Stacks of layers: which of them run at the same time, and what is done between two.
#include "stack.h"

#include <algorithm>
#include <memory>
#include <new>

namespace fastrnn {

namespace {

uint64_t hash(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

template <class T> void drop_elements(const Drop& drop) {
    const T* from = static_cast<const T*>(drop.from);
    T* to = static_cast<T*>(drop.to);
    const T scale = T(drop.scale);
    uint64_t place = drop.key;
    for (ptrdiff_t i = 0; i < drop.count; ++i) {
        place += 0x9E3779B97F4A7C15u;
        to[i] = hash(place) >> 32 >= drop.threshold ? from[i] * scale : T(0);
    }
}

void run(const Drop& drop, int bytes) {
    if (!drop.from) return;
    bytes == sizeof(float) ? drop_elements<float>(drop) : drop_elements<double>(drop);
}

template <class T> void add(void* to, const void* from, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; ++i) static_cast<T*>(to)[i] += static_cast<const T*>(from)[i];
}

// Layers are dealt to the threads round-robin; each waits for the one below it, step by step.
struct Wave {
    const Kernels& kernels;
    std::vector<ForwardCall>& calls;
    std::vector<Ran>& ran;
    std::unique_ptr<Progress[]> progress{new Progress[calls.size()]};
    std::atomic<bool> failed{false}, stopped{false};
    std::atomic<int> threads{0};

    static void run(void* wave, int thread, Barrier& barrier) {
        Wave& self = *static_cast<Wave*>(wave);
        ++self.threads;
        for (size_t layer = thread; layer < self.calls.size(); layer += barrier.threads) self.run_layer(layer);
    }

    void run_layer(size_t layer) {
        ForwardCall& call = calls[layer];
        if (layer) call.below = &progress[layer - 1];
        call.above = &progress[layer];
        try {
            if (!kernels.forward(call, ran[layer])) stopped = true;
        } catch (...) {  // out of memory: do not leave the layer above waiting
            failed = true;
            progress[layer].reached(call.T);
        }
    }
};

// A layer of a wave follows the one below it closely. It must not be run a second time, for the layer above would have
// read the first results.
void choose_wave_path(const Kernels& kernels, ForwardCall& call, bool follows) {
    if (call.bf16_parts == full_precision_parts) {
        call.bf16_parts = 0;
        call.path = kernels.forward_path(call);
    }
    if (follows && call.path.input == Input::chunk) call.path.chunk = std::min(call.path.chunk, wave_steps);
}

// Number of threads that run layers at the same time, each following the one below; 1: one layer after the other.
int wave_threads(const std::vector<ForwardCall>& calls, int directions, int threads) {
    // A layer that is itself divided does not finish its steps one by one, so that none could follow it.
    const bool divided = std::any_of(calls.begin(), calls.end(), [](const Call& call) { return call.path.parts > 1; });
    const int layers = int(calls.size());
    if (directions > 1 || divided || layers < 2 || threads < 2 || calls[0].T < worth_a_wave || calls[0].keep) return 1;
    return threads < layers ? threads : layers;
}

// Runs the directions of a layer, two of them in a thread each if `apart`.
template <class F> bool run_directions(int directions, bool apart, F run) {
    if (directions == 1) return run(0);
    if (!apart) return run(0) && run(1);
    struct Both {
        F& run;
        std::atomic<bool> finished{true}, failed{false};
    } both{run};
    const auto task = [](void* context, int part) {
        Both& both = *static_cast<Both*>(context);
        try {
            if (!both.run(part)) both.finished = false;
        } catch (...) {
            both.failed = true;
        }
    };
    parallel(2, task, &both);
    if (both.failed) throw std::bad_alloc();
    return both.finished;
}

// Records of a call: they replace those of the last call and reuse their memory.
struct Noted {
    LastCall done;

    explicit Noted(size_t calls) {
        std::swap(done.layers, last_call().layers);
        done.layers.assign(calls, {});
    }
    ~Noted() { last_call() = std::move(done); }
};

}  // namespace

bool forward_stack(const Kernels& kernels, std::vector<ForwardCall>& calls, int directions, int threads,
                   const std::vector<char>& apart, const std::vector<Drop>& drops) {
    for (ForwardCall& call : calls) call.path = kernels.forward_path(call);
    Noted noted(calls.size());
    std::vector<Ran>& ran = noted.done.layers;
    const int at_once = drops.empty() ? wave_threads(calls, directions, threads) : 1;
    if (at_once > 1) {
        for (size_t layer = 0; layer < calls.size(); ++layer) choose_wave_path(kernels, calls[layer], layer > 0);
        Wave wave{kernels, calls, ran};
        together(at_once, Wave::run, &wave);
        if (wave.failed) throw std::bad_alloc();
        noted.done.at_once = wave.threads;
        return !wave.stopped;
    }
    for (size_t first = 0; first < calls.size(); first += directions) {
        if (!drops.empty()) run(drops[first / directions], kernels.plain->bytes);
        if (apart[first / directions]) noted.done.at_once = 2;
        if (!run_directions(directions, apart[first / directions],
                            [&](int d) { return kernels.forward(calls[first + d], ran[first + d]); }))
            return false;
    }
    return true;
}

bool backward_stack(const Kernels& kernels, std::vector<BackwardCall>& calls, int directions,
                    const std::vector<char>& apart, const std::vector<Join>& joins) {
    for (BackwardCall& call : calls) call.path = kernels.backward_path(call);
    Noted noted(calls.size());
    std::vector<Ran>& ran = noted.done.layers;
    const int bytes = kernels.plain->bytes;
    for (size_t layer = calls.size() / directions; layer-- > 0;) {
        const size_t first = layer * directions;
        if (apart[layer]) noted.done.at_once = 2;
        if (!run_directions(directions, apart[layer],
                            [&](int d) { return kernels.backward(calls[first + d], ran[first + d]); }))
            return false;
        const Join& join = joins[layer];
        if (join.other)
            bytes == sizeof(float) ? add<float>(join.dx, join.other, join.count)
                                   : add<double>(join.dx, join.other, join.count);
        run(join.drop, bytes);
    }
    return true;
}

namespace {

// In the order of the destination; where its columns are contiguous, in squares.
template <class T> void finish_one(const Finished& one, bool add) {
    const T* from = static_cast<const T*>(one.from);
    T* to = static_cast<T*>(one.to);
    const auto put = [add](T& at, T value) { at = add ? at + value : value; };
    if (one.col == 1) {
        for (ptrdiff_t i = 0; i < one.rows; ++i)
            for (ptrdiff_t j = 0; j < one.columns; ++j) put(to[i * one.row + j], from[i * one.columns + j]);
        return;
    }
    constexpr ptrdiff_t side = 16;
    for (ptrdiff_t j0 = 0; j0 < one.columns; j0 += side)
        for (ptrdiff_t i0 = 0; i0 < one.rows; i0 += side)
            for (ptrdiff_t j = j0; j < std::min(one.columns, j0 + side); ++j)
                for (ptrdiff_t i = i0; i < std::min(one.rows, i0 + side); ++i)
                    put(to[i * one.row + j * one.col], from[i * one.columns + j]);
}

}  // namespace

void finish(const std::vector<Finished>& gradients, int bytes, bool add) {
    for (const Finished& one : gradients)
        bytes == sizeof(float) ? finish_one<float>(one, add) : finish_one<double>(one, add);
}

}  // namespace fastrnn
