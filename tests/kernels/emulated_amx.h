// The tile registers of AMX in software, so that any processor with AVX512-BF16 tests the kernels of that variant.
// What a processor refuses, shapes that do not fit each other or that were not set, is a fault here as well.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace emulated {

struct Register {
    int rows, bytes;
    unsigned char at[16][64];
};
inline thread_local Register tiles[8];

inline void require(bool right) {
    if (!right) std::raise(SIGSEGV);
}

inline void load_config(const void* config) {
    const auto* shapes = static_cast<const unsigned char*>(config);
    require(shapes[0] == 1 && shapes[1] == 0);
    for (int i = 0; i < 8; ++i) {
        uint16_t bytes;
        std::memcpy(&bytes, shapes + 16 + 2 * i, sizeof bytes);
        tiles[i] = {shapes[48 + i], bytes, {}};
        require(tiles[i].rows <= 16 && bytes <= 64 && bytes % 4 == 0 && !bytes == !tiles[i].rows);
    }
}

inline void release() {
    for (Register& tile : tiles) tile = {};
}

inline void zero(int tile) {
    require(tiles[tile].rows);
    std::memset(tiles[tile].at, 0, sizeof tiles[tile].at);
}

inline void load(int tile, const void* from, ptrdiff_t stride) {
    zero(tile);
    for (int r = 0; r < tiles[tile].rows; ++r)
        std::memcpy(tiles[tile].at[r], static_cast<const char*>(from) + r * stride, tiles[tile].bytes);
}

inline void store(int tile, void* to, ptrdiff_t stride) {
    require(tiles[tile].rows);
    for (int r = 0; r < tiles[tile].rows; ++r)
        std::memcpy(static_cast<char*>(to) + r * stride, tiles[tile].at[r], tiles[tile].bytes);
}

inline float widened(const unsigned char* half) {
    float value;
    unsigned char bytes[4] = {0, 0, half[0], half[1]};
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

// sums += left @ right, of pairs of bf16 numbers; added as the processor does: a sum of all first and one of all second
// numbers of the pairs, then both to what was there.
inline void multiply(int sums, int left, int right) {
    Register &to = tiles[sums], &a = tiles[left], &b = tiles[right];
    require(to.rows && to.rows == a.rows && to.bytes == b.bytes && a.bytes == 4 * b.rows);
    for (int r = 0; r < to.rows; ++r)
        for (int c = 0; c < to.bytes / 4; ++c) {
            float sum[2] = {}, all;
            for (int k = 0; k < b.rows; ++k)
                for (int i = 0; i < 2; ++i)
                    sum[i] = std::fma(widened(a.at[r] + 4 * k + 2 * i), widened(b.at[k] + 4 * c + 2 * i), sum[i]);
            std::memcpy(&all, to.at[r] + 4 * c, sizeof all);
            all += sum[0] + sum[1];
            std::memcpy(to.at[r] + 4 * c, &all, sizeof all);
        }
}

}  // namespace emulated

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated::load_config
#define _tile_release emulated::release
#define _tile_zero emulated::zero
#define _tile_loadd emulated::load
#define _tile_stored emulated::store
#define _tile_dpbf16ps emulated::multiply
#define __AMX_BF16__ 1
