// Selects the variant for this processor; checks for Ctrl-C.
#include "runtime.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#if defined(__linux__) && defined(__x86_64__)
#define FASTRNN_TILES  // the operating system is asked before their first use
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastrnn {

#define FASTRNN_DECLARE(name)     \
    namespace name {              \
    extern const Variant variant; \
    }
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
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
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
    const auto plain = std::find_if(other, end, [](const Variant* one) { return one->kernels->bf16_parts == 0; });
    std::vector<Kernels> all;
    for (int i = 0; i < (*plain)->count; ++i) all.push_back({&(*plain)->kernels[i], {}});
    for (; other != plain; ++other)
        for (int i = 0; can_run((*other)->name) && i < (*other)->count; ++i) {
            const Kernel& kernel = (*other)->kernels[i];
            all[find_kernels(all, kernel.cell, kernel.bytes)].split.push_back(&kernel);
        }
    return all;
}

int find_kernels(const std::vector<Kernels>& all, const char* cell, int bytes) {
    const auto found = std::find_if(all.begin(), all.end(), [=](const Kernels& one) {
        return one.plain->bytes == bytes && std::strcmp(one.plain->cell, cell) == 0;
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

LastCall& last_call() {
    static thread_local LastCall last;
    return last;
}

namespace {

thread_local Interruptible* interruptible = nullptr;

}  // namespace

const Stop* Interruptible::begin(bool (*asked)()) {
    check = asked;
    mode = FlushSubnormals::mode();
    next = Clock::now() + std::chrono::milliseconds(poll_milliseconds);
    outer = interruptible;
    interruptible = this;
    return &stop;
}

Interruptible::~Interruptible() {
    if (check) interruptible = outer;
}

void Interruptible::look() {
    if (stop.requested() || Clock::now() < next) return;
    const FlushSubnormals::Mode ours = FlushSubnormals::mode();
    FlushSubnormals::set_mode(mode);
    if (check()) stop.request();
    FlushSubnormals::set_mode(ours);
    next = Clock::now() + std::chrono::milliseconds(poll_milliseconds);
}

void poll() {
    if (interruptible) interruptible->look();
}

}  // namespace fastrnn
