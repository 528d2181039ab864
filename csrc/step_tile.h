// A step is done block of units by block of units, and for each block in tiles of sequences: the sums of the products,
// then the elementwise code while they are in the first-level cache.
#pragma once

#include "call_state.h"
#include "packed.h"

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
    const auto uneven = [&] {
        return shares > 1 && (vectors / v + shares - 1) / shares * shares * v * 8 > vectors * 9;
    };
    while (v > 2 && uneven()) v /= 2;
    return v;
}

// A tile of a step: v vectors of units from u on, of `rows` sequences from number n of a share on.
struct TileAt {
    ptrdiff_t u;
    int v;
    ptrdiff_t n;
    int rows;
};

// Where the sums of a stage stand, for the sequences of a tile: in memory that they began in, or in `scratch` once a
// product has been added.
template <class T> struct StepTile {
    static constexpr int block = 8 * width<T>;
    T* scratch;  // [sum][row][vector]
    const T* at[max_stage_sums];
    ptrdiff_t row[max_stage_sums];

    static ptrdiff_t size() { return max_stage_sums * most_rows * block; }

    // Adds a product to its sums; `run` as of `multiply`.
    template <class F, class G>
    FASTRNN_INLINED void add(const Panel<F>& panel, const Product& product, TileAt here, Side<typename F::Item> left,
                             G run) {
        const ptrdiff_t out_row = here.v * width<T>;
        Ends<T> ends[(max_stage_sums + max_sums - 1) / max_sums];
        for (int i = 0; i < product.sums; ++i) {
            Ends<T>& group = ends[i / max_sums];
            const int s = product.sum[i], j = i % max_sums;
            group.begin[j] = at[s];
            group.begin_row[j] = row[s];
            group.out[j] = scratch + s * most_rows * block;
            group.out_row = out_row;
            at[s] = group.out[j];
            row[s] = out_row;
        }
        multiply(panel, product.sums, here.u, here.v, here.rows, left.from(here.n), ends, run);
    }
};

// Calls f(row, n, u, flags) for each sequence n of a tile and each vector of units, from u on, with the addresses of
// what the elementwise code of stage S loads and stores in either pass; `begin` is the first sequence of the share.
template <class Cell, class S, class T, class G>
FASTRNN_INLINE void each_row(const CallState<Cell, T>& run, const At<T>& at, const StepTile<T>& tile, TileAt here,
                             ptrdiff_t begin, G f) {
    // Copies stay in registers: a vector that is stored could be anything else.
    const ptrdiff_t Hp = run.Hp, H = run.H;
    const T* const units = run.units;
    const uint8_t* const table = run.flags ? run.flags + at.t * run.N : nullptr;
    for (int r = 0; r < here.rows; ++r) {
        const ptrdiff_t n = begin + here.n + r;
        const int flags = table ? table[n] : 0;
        for (ptrdiff_t j = 0; j < here.v * width<T>; j += width<T>) {
            const ptrdiff_t u = here.u + j;
            Row<T> row;
            for (int a = 0; a < S::sums; ++a) row.acc[a] = tile.at[a] + r * tile.row[a] + j;
            for (int k = 0; k < Cell::states; ++k) {
                row.prev[k] = at.prev[k].at + n * at.prev[k].row + u;
                row.next[k] = at.next[k] + n * at.next_row[k] + u;
            }
            row.keep = at.keep + n * Cell::keeps * Hp + u;
            row.unit = units + u;
            row.Hp = Hp;
            row.head = head_mask<T>(H - u);
            f(row, n, u, flags);
        }
    }
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
