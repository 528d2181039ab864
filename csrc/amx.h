// The microkernel on the tile registers of AMX, sums[r] = begin[r] + A[r] @ B. A tile register holds up to 16 rows of
// 64 bytes; one instruction adds the product of 16 rows of 16 items with 16 items of 16 columns to 16 rows of 16 sums.
//
//     A      in   rows of items, `row` apart: [term][depth] each, depth a multiple of 16
//     B      in   [term][depth][sums][vectors] items, packed (packed.h)
//     begin  in   float32, for each sum rows `begin_row` apart
//     out    out  float32, for each sum rows `out_row` apart; may be `begin`
#pragma once

#include "operand.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

constexpr int tile_side = 16;

// The tile intrinsics do not tell the compiler which memory they read: force earlier stores to it.
FASTRNN_INLINE void finish_writing(const void* at) { asm volatile("" ::"r"(at) : "memory"); }

// Shapes of the registers: 0 to 3 sums, 4 the upper rows of the left side and 5 the lower ones, 6 and 7 columns of the
// right side. Where there are lower rows, 2 and 3 are their sums.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, zeros[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    explicit TileShapes(int count) {
        const int upper = count < tile_side ? count : tile_side, lower = count - upper, second = lower ? lower : upper;
        const int of[8] = {upper, upper, second, second, upper, lower, tile_side, tile_side};
        for (int i = 0; i < 8; ++i) {
            rows[i] = uint8_t(of[i]);
            row_bytes[i] = of[i] ? 64 : 0;
        }
    }
};

// A thread's use of the tile registers. Other code may have configured them for itself: nothing set before is relied
// on.
class TileSession {
  public:
    TileSession() : before(infinite) {
        forget();
        infinite = false;
    }
    ~TileSession() {
        _tile_release();
        forget();
        infinite = before;
    }
    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;

    static void shape(int wanted) {
        if (wanted == rows) return;
        const TileShapes shapes(wanted);
        finish_writing(&shapes);
        _tile_loadconfig(&shapes);
        rows = wanted;
    }

    // Other code may have run in this thread, such as a signal handler.
    static void forget() { rows = 0; }

    // Whether no sum was infinite or NaN.
    static bool finite() { return !infinite; }
    static void note_infinite() { infinite = true; }

  private:
    const bool before;  // of the call around a nested one
    static inline thread_local int rows = 0;
    static inline thread_local bool infinite = false;
};

// Initial values and destination of up to four vectors of sums.
struct TileEnds {
    const float* begin[4];
    ptrdiff_t begin_row[4];
    float* out[4];
    ptrdiff_t out_row;
};

FASTRNN_INLINE ptrdiff_t in_bytes(ptrdiff_t row) { return row * ptrdiff_t(sizeof(float)); }

// out = begin + unscale * sums, `columns` vectors a row.
template <class F> void add_unscaled(const float* sums, int rows, int columns, const TileEnds& ends) {
    __mmask16 infinite = 0;
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < columns; ++c, sums += tile_side) {
            const Vec<float> sum = load(sums);
            infinite |= _mm512_fpclass_ps_mask((__m512)sum, 0x99);  // infinities and NaN
            store(ends.out[c] + r * ends.out_row, load(ends.begin[c] + r * ends.begin_row[c]) + F::unscale * sum);
        }
    if (infinite) TileSession::note_infinite();
}

// Up to four vectors of sums of up to 16 rows, or up to two of up to 32 rows (LOWER).
template <class F, int COLUMNS, bool LOWER>
void tile_columns(int rows, Rows<int32_t> a, const int32_t* b, ptrdiff_t b_row, ptrdiff_t b_part, ptrdiff_t depth,
                  TileEnds ends) {
    static_assert(COLUMNS <= (LOWER ? 2 : 4));
    const TileEnds wanted = ends;
    alignas(64) float sums[F::full_precision ? 2 * tile_side * COLUMNS * tile_side : 1];
    if constexpr (F::full_precision) {
        for (int c = 0; c < COLUMNS; ++c) ends.out[c] = sums + c * tile_side;
        ends.out_row = COLUMNS * tile_side;
        _tile_zero(0);
        if constexpr (COLUMNS > 1) _tile_zero(1);
        if constexpr (COLUMNS > 2 || LOWER) _tile_zero(2);
        if constexpr (COLUMNS > 3 || (COLUMNS > 1 && LOWER)) _tile_zero(3);
    } else {
        const auto begin = [&](int c, int row) { return ends.begin[c] + row * ends.begin_row[c]; };
        finish_writing(ends.begin[0]);
        _tile_loadd(0, begin(0, 0), in_bytes(ends.begin_row[0]));
        if constexpr (COLUMNS > 1) _tile_loadd(1, begin(1, 0), in_bytes(ends.begin_row[1]));
        if constexpr (COLUMNS > 2) _tile_loadd(2, begin(2, 0), in_bytes(ends.begin_row[2]));
        if constexpr (COLUMNS > 3) _tile_loadd(3, begin(3, 0), in_bytes(ends.begin_row[3]));
        if constexpr (LOWER) _tile_loadd(2, begin(0, tile_side), in_bytes(ends.begin_row[0]));
        if constexpr (LOWER && COLUMNS > 1) _tile_loadd(3, begin(1, tile_side), in_bytes(ends.begin_row[1]));
    }
    finish_writing(a.at);
    for (ptrdiff_t k = 0; k < depth; k += tile_side, a.at += tile_side, b += tile_side * b_row) {
        FASTRNN_UNROLL (int term = 0; term < F::terms; ++term) {
            const int32_t *left = a.at + F::left(term) * depth, *right = b + F::right(term) * b_part;
            if (term == 0 || F::left(term) != F::left(term - 1)) {
                _tile_loadd(4, left, in_bytes(a.row));
                if constexpr (LOWER) _tile_loadd(5, left + tile_side * a.row, in_bytes(a.row));
            }
            const bool other = term == 0 || F::right(term) != F::right(term - 1);
            if (other || COLUMNS > 2) _tile_loadd(6, right, in_bytes(b_row));
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (LOWER) _tile_dpbf16ps(2, 5, 6);
            if constexpr (COLUMNS > 1) {
                if (other || COLUMNS > 3) _tile_loadd(7, right + tile_side, in_bytes(b_row));
                _tile_dpbf16ps(1, 4, 7);
                if constexpr (LOWER) _tile_dpbf16ps(3, 5, 7);
            }
            if constexpr (COLUMNS > 2) {
                _tile_loadd(6, right + 2 * tile_side, in_bytes(b_row));
                _tile_dpbf16ps(2, 4, 6);
            }
            if constexpr (COLUMNS > 3) {
                _tile_loadd(7, right + 3 * tile_side, in_bytes(b_row));
                _tile_dpbf16ps(3, 4, 7);
            }
        }
    }
    const auto out = [&](int c, int row) { return ends.out[c] + row * ends.out_row; };
    _tile_stored(0, out(0, 0), in_bytes(ends.out_row));
    if constexpr (COLUMNS > 1) _tile_stored(1, out(1, 0), in_bytes(ends.out_row));
    if constexpr (COLUMNS > 2) _tile_stored(2, out(2, 0), in_bytes(ends.out_row));
    if constexpr (COLUMNS > 3) _tile_stored(3, out(3, 0), in_bytes(ends.out_row));
    if constexpr (LOWER) _tile_stored(2, out(0, tile_side), in_bytes(ends.out_row));
    if constexpr (LOWER && COLUMNS > 1) _tile_stored(3, out(1, tile_side), in_bytes(ends.out_row));
    if constexpr (F::full_precision) {
        finish_writing(sums);
        add_unscaled<F>(sums, rows, COLUMNS, wanted);
    }
}

// The tile of `rows` rows, up to 32, `sums` sums a row and `vectors` vectors a sum.
template <class F, class Ends>
void amx_tile(int rows, int sums, int vectors, Rows<int32_t> a, const int32_t* B, ptrdiff_t depth, const Ends& ends) {
    TileSession::shape(rows);
    const bool lower = rows > tile_side;
    const int count = sums * vectors, most = lower ? 2 : 4;
    const ptrdiff_t b_row = count * tile_side, b_part = depth * b_row;
    for (int first = 0; first < count; first += most) {
        const int columns = count - first < most ? count - first : most;
        TileEnds some{{}, {}, {}, ends.out_row};
        for (int i = 0; i < columns; ++i) {
            const int sum = (first + i) / vectors, vector = (first + i) % vectors * tile_side;
            some.begin[i] = ends.begin[sum] + vector;
            some.begin_row[i] = ends.begin_row[sum];
            some.out[i] = ends.out[sum] + vector;
        }
        const auto run = lower          ? (columns == 1 ? tile_columns<F, 1, true> : tile_columns<F, 2, true>)
                         : columns == 1 ? tile_columns<F, 1, false>
                         : columns == 2 ? tile_columns<F, 2, false>
                         : columns == 3 ? tile_columns<F, 3, false>
                                        : tile_columns<F, 4, false>;
        run(rows, a, B + first * tile_side, b_row, b_part, depth, some);
    }
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
