// The microkernel: a tile of sums that stays in registers, `sums[r][a] = begin[r][a] + A[r] @ B[a]`.
// A tile has R rows, A sums a row and V vectors of units a sum.
#pragma once

#include "operand.h"
#ifdef __AMX_BF16__
#include "amx.h"
#endif

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Where the sums begin and where they go: for each sum the first row, and the distance between rows.
template <class T> struct Ends {
    const T* begin[4];
    ptrdiff_t begin_row[4];
    T* out[4];
    ptrdiff_t out_row;
};

// The left side: rows `a_row` apart, or packed as [depth][R], which only whole numbers are. The right side is packed as
// [part][depth][sums][vectors]; several parts are a matter of AMX alone.
enum class Layout { rows, packed };

// One number of each of R rows after the other. Every third row has a pointer of its own: the two between are reached
// by index, and registers suffice.
template <class Item, int R> struct Walk {
    static constexpr int count = (R + 2) / 3;
    const Item* third[count];
    ptrdiff_t row;

    __attribute__((always_inline)) explicit Walk(Side<Item> side) : row(side.row) {
        FASTRNN_UNROLL (int q = 0; q < count; ++q) third[q] = side.from(3 * q).at;
    }
    __attribute__((always_inline)) Item at(int r) const { return third[r / 3][(r % 3) * row]; }
    __attribute__((always_inline)) void next() {
        FASTRNN_UNROLL (int q = 0; q < count; ++q) ++third[q];
    }
};

// With few sums under way the depth is split over several chains of each.
constexpr int parts_of(int sums) { return sums >= min_chains ? 1 : min_chains / sums; }

template <class F, int R, int A, int V, Layout LAYOUT>
void tile(const typename F::Item* a, ptrdiff_t a_row, const typename F::Item* b, ptrdiff_t depth,
          const Ends<typename F::Number>& ends) {
    using T = typename F::Number;
    using Item = typename F::Item;
    constexpr int W = width<T>, C = A * V, P = parts_of(R * C);
    Vec<T> sum[P][R][C];
    FASTRNN_UNROLL (int r = 0; r < R; ++r)
        FASTRNN_UNROLL (int c = 0; c < C; ++c) {
            sum[0][r][c] = load(ends.begin[c / V] + r * ends.begin_row[c / V] + (c % V) * W);
            FASTRNN_UNROLL (int p = 1; p < P; ++p) sum[p][r][c] = Vec<T>{};
        }
    Walk<Item, R> rows({a, a_row});
    const auto add = [&](int p) __attribute__((always_inline)) {
        Vec<Item> columns[C];
        FASTRNN_UNROLL (int c = 0; c < C; ++c) columns[c] = load(b + c * W);
        FASTRNN_UNROLL (int r = 0; r < R; ++r) {
            const Vec<Item> number = splat(LAYOUT == Layout::packed ? a[r] : rows.at(r));
            FASTRNN_UNROLL (int c = 0; c < C; ++c) sum[p][r][c] = F::add(sum[p][r][c], number, columns[c]);
        }
        b += C * W;
        if (LAYOUT == Layout::packed)
            a += R;
        else
            rows.next();
    };
    ptrdiff_t k = 0;
    for (; k + P <= depth; k += P)
        FASTRNN_UNROLL (int p = 0; p < P; ++p) add(p);
    for (; k < depth; ++k) add(0);
    FASTRNN_UNROLL (int r = 0; r < R; ++r)
        FASTRNN_UNROLL (int c = 0; c < C; ++c) {
            FASTRNN_UNROLL (int p = 1; p < P; ++p) sum[0][r][c] += sum[p][r][c];
            store(ends.out[c / V] + r * ends.out_row + (c % V) * W, sum[0][r][c]);
        }
}

template <class F>
using Tile = void (*)(const typename F::Item*, ptrdiff_t, const typename F::Item*, ptrdiff_t,
                      const Ends<typename F::Number>&);

#ifdef __AMX_BF16__
// Two registers of rows.
constexpr int max_rows(int) { return 32; }
constexpr int max_columns(int) { return 8; }
#else
// Vectors of sums that a row may have, and rows that a tile may have, so that all fits the registers.
constexpr int max_rows(int columns) {
    constexpr int of_32[] = {0, 14, 14, 9, 6, 3, 3, 3, 3}, of_16[] = {0, 8, 6, 4, 2};
    if (registers >= 32) return columns <= 8 ? of_32[columns] : 1;
    return columns <= 4 ? of_16[columns] : 1;
}
constexpr int max_columns(int rows) {
    return registers >= 32 ? (rows == 1 ? 16 : rows <= 3 ? 8 : 4) : (rows == 1 ? 8 : rows == 2 ? 4 : 2);
}
#endif
constexpr int most_rows = max_rows(1);
// Sums that one tile takes at once.
constexpr int max_sums = registers >= 32 ? 4 : 2;

template <class F, int A, int V, Layout LAYOUT, int R> constexpr Tile<F> tile_or_none() {
    if constexpr (R <= max_rows(A * V) && A * V <= 16)
        return &tile<F, R, A, V, LAYOUT>;
    else
        return nullptr;
}

template <class F, int A, int V, Layout LAYOUT, int... R>
FASTRNN_INLINE Tile<F> tile_of_rows(int rows, std::integer_sequence<int, R...>) {
    static constexpr Tile<F> table[] = {tile_or_none<F, A, V, LAYOUT, R + 1>()...};
    return table[rows - 1];
}

template <class F, int A, Layout LAYOUT> FASTRNN_INLINE Tile<F> tile_of_vectors(int vectors, int rows) {
    constexpr auto each = std::make_integer_sequence<int, most_rows>{};
    switch (vectors) {
        case 1: return tile_of_rows<F, A, 1, LAYOUT>(rows, each);
        case 2: return tile_of_rows<F, A, 2, LAYOUT>(rows, each);
        case 4: return tile_of_rows<F, A, 4, LAYOUT>(rows, each);
        default: return tile_of_rows<F, A, 8, LAYOUT>(rows, each);
    }
}

template <class F, Layout LAYOUT> FASTRNN_INLINE Tile<F> find_tile(int rows, int sums, int vectors) {
    switch (sums) {
        case 1: return tile_of_vectors<F, 1, LAYOUT>(vectors, rows);
        case 2: return tile_of_vectors<F, 2, LAYOUT>(vectors, rows);
        case 3: return tile_of_vectors<F, 3, LAYOUT>(vectors, rows);
        default: return tile_of_vectors<F, 4, LAYOUT>(vectors, rows);
    }
}

#ifndef __AMX_BF16__
struct TileSession {
    TileSession() {}
    static void forget() {}
    static constexpr bool finite() { return true; }
};
#endif

// Runs the tile of `rows` rows, `sums` sums a row and `vectors` vectors a sum.
template <class F, Layout LAYOUT>
FASTRNN_INLINE void run_tile(int rows, int sums, int vectors, Side<typename F::Item> a, const typename F::Item* B,
                             ptrdiff_t depth, const Ends<typename F::Number>& ends) {
#ifdef __AMX_BF16__
    amx_tile<F>(rows, sums, vectors, a, B, depth, ends);
#else
    find_tile<F, LAYOUT>(rows, sums, vectors)(a.at, a.row, B, depth, ends);
#endif
}

// `count` rows as evenly as possible in tiles of at most `most`: the size of the tile that begins at `at`.
FASTRNN_INLINE int balanced(ptrdiff_t at, ptrdiff_t count, int most) {
    const ptrdiff_t left = count - at, tiles = (left + most - 1) / most;
    return int((left + tiles - 1) / tiles);
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
