// A step is done block of units by block of units, and for each block in tiles of sequences: the sums of the products,
// then the elementwise code while they are in the first-level cache.
#pragma once

#include "panel.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Calls f(first, rows) for `count` rows in tiles of at most `most`.
template <class F> FASTRNN_INLINE void each_tile(ptrdiff_t count, int most, F f) {
    for (ptrdiff_t n = 0; n < count;) {
        const int rows = balanced(n, count, most);
        f(n, rows);
        n += rows;
    }
}

template <class Stage> constexpr int widest_sums() {
    int widest = 1;
    for (int p = 0; p < Stage::products; ++p)
        if (Stage::product[p].sums > widest) widest = Stage::product[p].sums;
    return widest < max_sums ? widest : max_sums;
}

// Vectors of units that a block of a stage takes, so that a tile of `rows` rows has work for every register, and every
// one of `shares` shares of the blocks about the same; `most` vectors of sums.
template <class Stage> int block_vectors(ptrdiff_t rows, ptrdiff_t vectors, int shares, int most = most_block_sums) {
    const int widest = widest_sums<Stage>(), columns = max_columns(rows < most_rows ? int(rows) : most_rows);
    int v = (columns < most ? columns : most) / (widest == 3 ? 4 : widest);
    if (v > most_block_units) v = most_block_units;
    if (v < 1) v = 1;
    while (v > vectors && v > 1) v /= 2;
    const auto uneven = [&] { return shares > 1 && (vectors / v + shares - 1) / shares * shares * v * 8 > vectors * 9; };
    while (v > 2 && uneven()) v /= 2;
    return v;
}

// Vectors that hold the units of all sums of a stage that do not fill a vector of their own, side by side; 0 where that
// would not be fewer vectors.
template <class Stage, class T> int merged_vectors(ptrdiff_t H) {
    const ptrdiff_t units = H % width<T>, numbers = Stage::sums * units, vectors = numbers <= width<T> ? 1 : 2;
    return units && vectors < Stage::sums && numbers <= vectors * width<T> ? int(vectors) : 0;
}

// The sums of one tile of sequences and where they stand, and what is due beside their products.
template <class T> struct Tally {
    static constexpr int block = 8 * width<T>;
    T* scratch;
    Ahead<T>* ahead;
    const T* at[4];
    ptrdiff_t row[4];

    static ptrdiff_t size() { return 4 * most_rows * block; }

    // Adds a product to the sums `sums[0..]`.
    template <class F>
    void add(const Panel<F>& panel, const int* sums, ptrdiff_t u, int vectors, int rows, Side<typename F::Item> a) {
        const ptrdiff_t out_row = vectors * width<T>;
        Ends<T> ends[2];
        for (int i = 0; i < panel.sums; ++i) {
            Ends<T>& group = ends[i / max_sums];
            const int s = sums[i], j = i % max_sums;
            group.begin[j] = at[s];
            group.begin_row[j] = row[s];
            group.out[j] = scratch + s * most_rows * block;
            group.out_row = out_row;
            at[s] = group.out[j];
            row[s] = out_row;
        }
        multiply(panel, u, vectors, rows, a, ends, ahead);
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
