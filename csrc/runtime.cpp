// Which variant runs here, and layers over each other.
#include "runtime.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

namespace fastrnn {

#define FASTRNN_DECLARE(name) namespace name { extern const Variant variant; }
FASTRNN_VARIANTS(FASTRNN_DECLARE)

namespace {

bool can_run(const char* name) {
#if defined(__x86_64__) || defined(_M_X64)
    const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
    if (is("avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    if (is("avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return true;
}

}  // namespace

const Variant* find_variant(const char* wanted) {
#define FASTRNN_ADDRESS(name) &name::variant,
    const Variant* best_first[] = {FASTRNN_VARIANTS(FASTRNN_ADDRESS)};
    for (const Variant* variant : best_first)
        if (can_run(variant->name) && (!wanted || std::strcmp(wanted, variant->name) == 0)) return variant;
    return nullptr;
}

const char* variant_names() {
#define FASTRNN_SPACED(name) #name " "
    return FASTRNN_VARIANTS(FASTRNN_SPACED);
}

int find_kernel(const Variant* variant, const char* cell, int bytes) {
    for (int i = 0; i < variant->count; ++i)
        if (variant->kernels[i].bytes == bytes && std::strcmp(variant->kernels[i].cell, cell) == 0) return i;
    return -1;
}

namespace {

// A thread takes every so manieth layer; each waits for the one below it, step by step.
struct Wave {
    const Kernel& kernel;
    ForwardCall* calls;
    int layers;
    std::unique_ptr<Progress[]> progress{new Progress[layers]};
    std::atomic<bool> failed{false};

    static void run(void* wave, int thread, Barrier& barrier) {
        Wave& self = *static_cast<Wave*>(wave);
        for (int layer = thread; layer < self.layers; layer += barrier.threads) self.run_layer(layer);
    }

    void run_layer(int layer) {
        ForwardCall& call = calls[layer];
        if (layer) call.below = &progress[layer - 1];
        call.above = &progress[layer];
        try {
            kernel.forward(call);
        } catch (...) {  // no memory; whoever waits for this layer must not wait for ever
            failed = true;
            progress[layer].reached(call.T);
        }
    }
};

// Steps of a sequence that are worth waking a thread for.
constexpr ptrdiff_t worth_a_wave = 64;

}  // namespace

void forward_layers(const Kernel& kernel, ForwardCall* calls, int layers, int threads) {
    // The steps of a layer that is itself divided are not done one after the other: nobody could follow it.
    const bool divided = std::any_of(calls, calls + layers, [&](const Call& call) { return kernel.parts(call) > 1; });
    if (divided || layers < 2 || threads < 2 || calls->T < worth_a_wave) {
        for (int layer = 0; layer < layers; ++layer) kernel.forward(calls[layer]);
        return;
    }
    Wave wave{kernel, calls, layers};
    together(threads < layers ? threads : layers, Wave::run, &wave);
    if (wave.failed) throw std::bad_alloc();
}

}  // namespace fastrnn
