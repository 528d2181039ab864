// The microkernel on the tile registers of AMX: a register holds up to 16 rows of 64 bytes, and one instruction adds
// the product of 16 rows of 16 items and 16 items of 16 columns to 16 rows of 16 sums.
#pragma once

#include "factor.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

constexpr int tile_side = 16;

// The compilers' functions for tiles do not tell them what memory is read: it must have been written before.
FASTRNN_INLINE void finish_writing(const void* at) { asm volatile("" ::"r"(at) : "memory"); }

// Shapes of the registers: 0 and 1 the sums of the upper rows, 2 and 3 of the lower ones, 4 the upper rows of the left
// side and 5 the lower ones, 6 and 7 columns of the right side.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, zeros[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    explicit TileShapes(int count) {
        const int upper = count < tile_side ? count : tile_side, lower = count - upper;
        const int of[8] = {upper, upper, lower, lower, upper, lower, tile_side, tile_side};
        for (int i = 0; i < 8; ++i) {
            rows[i] = uint8_t(of[i]);
            row_bytes[i] = of[i] ? 64 : 0;
        }
    }
};

// A thread's use of the registers. Other code of the thread has shapes of its own: what was set before is not relied on.
class TileSession {
  public:
    TileSession() { rows = 0; }
    ~TileSession() { _tile_release(); }
    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;

    static void shape(int wanted) {
        if (wanted == rows) return;
        const TileShapes shapes(wanted);
        finish_writing(&shapes);
        _tile_loadconfig(&shapes);
        rows = wanted;
    }

  private:
    static inline thread_local int rows = 0;
};

// Two vectors of sums, or one, of up to 32 rows.
template <class F, bool TWO, bool LOWER>
void tile_pair(Side<int32_t> a, const int32_t* b, ptrdiff_t b_row, ptrdiff_t b_part, ptrdiff_t depth,
                              const float* const* begin, const ptrdiff_t* begin_row, float* const* out, ptrdiff_t out_row) {
    constexpr ptrdiff_t number = sizeof(float);
    finish_writing(begin[0]);
    _tile_loadd(0, begin[0], begin_row[0] * number);
    if constexpr (TWO) _tile_loadd(1, begin[1], begin_row[1] * number);
    if constexpr (LOWER) _tile_loadd(2, begin[0] + tile_side * begin_row[0], begin_row[0] * number);
    if constexpr (TWO && LOWER) _tile_loadd(3, begin[1] + tile_side * begin_row[1], begin_row[1] * number);
    for (int term = 0; term < F::terms; ++term) {
        const int32_t *left = a.at + F::left[term] * depth, *right = b + F::right[term] * b_part;
        for (ptrdiff_t k = 0; k < depth; k += tile_side, left += tile_side, right += tile_side * b_row) {
            _tile_loadd(4, left, a.row * number);
            if constexpr (LOWER) _tile_loadd(5, left + tile_side * a.row, a.row * number);
            _tile_loadd(6, right, b_row * number);
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (LOWER) _tile_dpbf16ps(2, 5, 6);
            if constexpr (TWO) _tile_loadd(7, right + tile_side, b_row * number);
            if constexpr (TWO) _tile_dpbf16ps(1, 4, 7);
            if constexpr (TWO && LOWER) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, out[0], out_row * number);
    if constexpr (TWO) _tile_stored(1, out[1], out_row * number);
    if constexpr (LOWER) _tile_stored(2, out[0] + tile_side * out_row, out_row * number);
    if constexpr (TWO && LOWER) _tile_stored(3, out[1] + tile_side * out_row, out_row * number);
}

// The tile of `rows` rows, up to 32, `sums` sums a row and `vectors` vectors a sum.
template <class F, class Ends>
void amx_tile(int rows, int sums, int vectors, Side<int32_t> a, const int32_t* B, ptrdiff_t depth, const Ends& ends) {
    TileSession::shape(rows);
    const int count = sums * vectors;
    const ptrdiff_t b_row = count * tile_side, b_part = depth * b_row;
    for (int c = 0; c < count; c += 2) {
        const bool two = c + 1 < count, lower = rows > tile_side;
        const float* begin[2] = {};
        float* out[2] = {};
        ptrdiff_t begin_row[2] = {};
        for (int i = 0; i <= two; ++i) {
            const int sum = (c + i) / vectors, vector = (c + i) % vectors * tile_side;
            begin[i] = ends.begin[sum] + vector;
            begin_row[i] = ends.begin_row[sum];
            out[i] = ends.out[sum] + vector;
        }
        const auto run = two ? (lower ? tile_pair<F, true, true> : tile_pair<F, true, false>)
                             : (lower ? tile_pair<F, false, true> : tile_pair<F, false, false>);
        run(a, B + c * tile_side, b_row, b_part, depth, begin, begin_row, out, ends.out_row);
    }
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
