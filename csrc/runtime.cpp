// Which variant runs here, and layers over each other.
#include "runtime.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>

#if defined(__linux__) && defined(__x86_64__)
#define FASTRNN_TILES  // the system is asked before their first use
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastrnn {

#define FASTRNN_DECLARE(name) namespace name { extern const Variant variant; }
FASTRNN_VARIANTS(FASTRNN_DECLARE)

namespace {

[[maybe_unused]] bool has_tiles() {
#ifdef FASTRNN_TILES
    unsigned a, b, c, features;
    constexpr unsigned bf16 = 1u << 22, tiles = 1u << 24;
    return __get_cpuid_count(7, 0, &a, &b, &c, &features) && features & bf16 && features & tiles;
#else
    return false;
#endif
}

bool can_run(const char* name) {
#if defined(__x86_64__) || defined(_M_X64)
    const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
    if (is("avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    if (is("avx512bf16")) return can_run("avx512") && __builtin_cpu_supports("avx512bf16");
    if (is("amx")) return can_run("avx512bf16") && has_tiles();
    if (is("avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return true;
}

#define FASTRNN_ADDRESS(name) &name::variant,
const Variant* const best_first[] = {FASTRNN_VARIANTS(FASTRNN_ADDRESS)};

}  // namespace

const Variant* find_variant(const char* wanted) {
    for (const Variant* variant : best_first)
        if (can_run(variant->name) && (!wanted || std::strcmp(wanted, variant->name) == 0)) return variant;
    return nullptr;
}

const char* variant_names() {
#define FASTRNN_SPACED(name) #name " "
    return FASTRNN_VARIANTS(FASTRNN_SPACED);
}

std::vector<Kernels> all_kernels(const Variant* variant) {
    const auto end = std::end(best_first);
    auto other = std::find(std::begin(best_first), end, variant);
    const auto whole = std::find_if(other, end, [](const Variant* one) { return one->kernels->bf16_parts == 0; });
    std::vector<Kernels> all;
    for (int i = 0; i < (*whole)->count; ++i) all.push_back({&(*whole)->kernels[i], {}});
    for (; other != whole; ++other)
        for (int i = 0; can_run((*other)->name) && i < (*other)->count; ++i) {
            const Kernel& kernel = (*other)->kernels[i];
            all[find_kernels(all, kernel.cell, kernel.bytes)].split.push_back(&kernel);
        }
    return all;
}

int find_kernels(const std::vector<Kernels>& all, const char* cell, int bytes) {
    const auto found = std::find_if(all.begin(), all.end(), [=](const Kernels& one) {
        return one.whole->bytes == bytes && std::strcmp(one.whole->cell, cell) == 0;
    });
    return found == all.end() ? -1 : int(found - all.begin());
}

bool tiles_allowed() {
#ifdef FASTRNN_TILES
    constexpr long ask = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool allowed = syscall(SYS_arch_prctl, ask, tile_data) == 0;
    return allowed;
#else
    return false;
#endif
}

namespace {

// A thread takes every so manieth layer; each waits for the one below it, step by step.
struct Wave {
    const Kernels& kernels;
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
            kernels.of(call).forward(call);
        } catch (...) {  // no memory; whoever waits for this layer must not wait for ever
            failed = true;
            progress[layer].reached(call.T);
        }
    }
};

// Steps of a sequence that are worth waking a thread for.
constexpr ptrdiff_t worth_a_wave = 64;

}  // namespace

void forward_layers(const Kernels& kernels, ForwardCall* calls, int layers, int threads) {
    // The steps of a layer that is itself divided are not done one after the other: nobody could follow it.
    const bool divided =
        std::any_of(calls, calls + layers, [&](const Call& call) { return kernels.of(call).threads(call) > 1; });
    if (divided || layers < 2 || threads < 2 || calls->T < worth_a_wave) {
        for (int layer = 0; layer < layers; ++layer) kernels.forward(calls[layer]);
        return;
    }
    // A layer that had to be done again, its numbers too large to be split, would have misled those that followed it.
    for (int layer = 0; layer < layers; ++layer)
        if (calls[layer].bf16_parts == whole_parts) calls[layer].bf16_parts = 0;
    Wave wave{kernels, calls, layers};
    together(threads < layers ? threads : layers, Wave::run, &wave);
    if (wave.failed) throw std::bad_alloc();
}

}  // namespace fastrnn
