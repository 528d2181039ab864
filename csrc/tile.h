// The microkernel: a register tile of R rows, A sums a row and V vectors of units a sum.
//
//     out[r][s] = begin[r][s] + a[r] @ B[s]
//
//     a      in   (R, depth) items: rows `a_row` apart, or packed as [depth][R]
//     B      in   [depth][A][V vectors] items, packed (packed.h); read once, in order
//     begin  in   for each of the A sums, R rows of V vectors, `begin_row` apart (0: the same row for all)
//     out    out  for each of the A sums, R rows of V vectors, `out_row` apart; may be `begin`
//
// Nothing needs to be aligned. Every element of out is one sum over the depth, in order, or several where the tile has
// few sums (chains_of), which are added at the end.
#pragma once

#include "operand.h"
#ifdef __AMX_BF16__
#include "amx.h"
#endif

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Initial values and destination: for each sum the first row, and the leading dimension.
template <class T> struct Ends {
    const T* begin[4];
    ptrdiff_t begin_row[4];
    T* out[4];
    ptrdiff_t out_row;
};

// How the left operand is stored: rows `a_row` apart, or packed as [depth][R], where elements are not split. With
// several bf16 terms, which only AMX multiplies, the right operand is [term][depth][sums][vectors].
enum class Layout { rows, packed };

// Walks along R rows. Only every third row has a pointer, the two after it are indexed from it, so that the pointers
// fit the registers.
template <class Item, int R> struct Walk {
    static constexpr int count = (R + 2) / 3;
    const Item* third[count];
    ptrdiff_t row;

    __attribute__((always_inline)) explicit Walk(Rows<Item> side) : row(side.row) {
        FASTRNN_UNROLL (int q = 0; q < count; ++q) third[q] = side.from(3 * q).at;
    }
    __attribute__((always_inline)) Item at(int r) const { return third[r / 3][(r % 3) * row]; }
    __attribute__((always_inline)) void next() {
        FASTRNN_UNROLL (int q = 0; q < count; ++q) ++third[q];
    }
};

// A tile of few sums splits the depth over several independent chains of additions, to hide their latency.
constexpr int chains_of(int sums) { return sums >= min_chains ? 1 : min_chains / sums; }

template <class F, int R, int A, int V, Layout LAYOUT>
void tile(const typename F::Item* a, ptrdiff_t a_row, const typename F::Item* b, ptrdiff_t depth,
          const Ends<typename F::Element>& ends) {
    using T = typename F::Element;
    using Item = typename F::Item;
    constexpr int W = width<T>, C = A * V, P = chains_of(R * C);
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
            const Vec<Item> value = splat(LAYOUT == Layout::packed ? a[r] : rows.at(r));
            FASTRNN_UNROLL (int c = 0; c < C; ++c) sum[p][r][c] = F::add(sum[p][r][c], value, columns[c]);
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
                      const Ends<typename F::Element>&);

#ifdef __AMX_BF16__
// Two tile registers of rows.
constexpr int max_rows(int) { return 32; }
constexpr int max_columns(int) { return 8; }
#else
// Rows that a tile with so many vectors of sums a row may have, and vectors that so many rows may have, to fit the
// registers.
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
// Sums of a row that one tile computes.
constexpr int max_sums = registers >= 32 ? 4 : 2;
// The exponent of 1, 2, 4 or 8.
constexpr int power_of(int vectors) { return vectors == 8 ? 3 : vectors / 2; }

// Number `I` of the tiles of 1 to `max_sums` sums, 1, 2, 4 or 8 vectors and 1 to `most_rows` rows; null where it would
// not fit the registers. A packed left side meets one sum only.
template <class F, Layout LAYOUT, int I> constexpr Tile<F> tile_or_none() {
    constexpr int R = I % most_rows + 1, V = 1 << I / most_rows % 4, A = I / most_rows / 4 + 1;
    if constexpr (R <= max_rows(A * V) && A * V <= 16 && (A == 1 || LAYOUT == Layout::rows))
        return &tile<F, R, A, V, LAYOUT>;
    else
        return nullptr;
}

template <class F, Layout LAYOUT, int... I>
FASTRNN_INLINE Tile<F> find_tile(int rows, int sums, int vectors, std::integer_sequence<int, I...>) {
    static constexpr Tile<F> table[] = {tile_or_none<F, LAYOUT, I>()...};
    return table[(4 * (sums - 1) + power_of(vectors)) * most_rows + rows - 1];
}

#ifndef __AMX_BF16__
struct TileSession {
    TileSession() {}
    static void forget() {}
    static constexpr bool finite() { return true; }
};
#endif

// Runs the tile of `rows` rows, `sums` sums a row and `vectors` vectors a sum; arguments as above.
template <class F, Layout LAYOUT>
FASTRNN_INLINE void run_tile(int rows, int sums, int vectors, Rows<typename F::Item> a, const typename F::Item* B,
                             ptrdiff_t depth, const Ends<typename F::Element>& ends) {
#ifdef __AMX_BF16__
    amx_tile<F>(rows, sums, vectors, a, B, depth, ends);
#else
    constexpr auto all = std::make_integer_sequence<int, max_sums * 4 * most_rows>{};
    find_tile<F, LAYOUT>(rows, sums, vectors, all)(a.at, a.row, B, depth, ends);
#endif
}

// `count` rows as evenly as possible in tiles of at most `most`: the size of the tile that begins at `at`.
FASTRNN_INLINE int balanced(ptrdiff_t at, ptrdiff_t count, int most) {
    const ptrdiff_t left = count - at, tiles = (left + most - 1) / most;
    return int((left + tiles - 1) / tiles);
}

// Calls f(first, rows) for each of these tiles.
template <class F> FASTRNN_INLINE void each_tile(ptrdiff_t count, int most, F f) {
    for (ptrdiff_t n = 0; n < count;) {
        const int rows = balanced(n, count, most);
        f(n, rows);
        n += rows;
    }
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
