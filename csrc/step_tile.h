// A step goes through blocks of units and, for each block, through tiles of sequences: the sums of the products, then
// the elementwise code while the sums are in the first-level cache.
#pragma once

#include "call_state.h"
#include "packed.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Stage> constexpr int widest_sums() {
    int widest = 1;
    for (int p = 0; p < Stage::products; ++p)
        if (Stage::product[p].sums > widest) widest = Stage::product[p].sums;
    return widest < max_sums ? widest : max_sums;
}

// Vectors of units of a block of a stage: as many as a register tile of `rows` rows has accumulators for, at most
// `most` vectors of sums, and so that `shares` shares of the blocks are about equal.
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

// A tile of a step: v vectors of units from u on, `rows` sequences from sequence n of the share on.
struct TileAt {
    ptrdiff_t u;
    int v;
    ptrdiff_t n;
    int rows;
};

// Where the sums of a stage are, for the sequences of a tile: their initial values, or `scratch` once a product was
// added.
template <class T> struct StepTile {
    static constexpr int block = 8 * width<T>;
    T* scratch;  // [sum][row][vector]
    const T* at[max_stage_sums];
    ptrdiff_t row[max_stage_sums];

    static ptrdiff_t size() { return max_stage_sums * most_rows * block; }

    // Adds a product to its sums, by run(rows, sums, vectors, a, B, depth, ends) for as many sums as a register tile
    // takes.
    template <class F, class G>
    FASTRNN_INLINED void add(const Panel<F>& panel, const Product& product, TileAt here, Rows<typename F::Item> left,
                             G run) {
        const ptrdiff_t out_row = here.v * width<T>;
        for (int first = 0; first < product.sums; first += max_sums) {
            const int count = product.sums - first < max_sums ? product.sums - first : max_sums;
            Ends<T> ends{{}, {}, {}, out_row};
            for (int j = 0; j < count; ++j) {
                const int s = product.sum[first + j];
                ends.begin[j] = at[s];
                ends.begin_row[j] = row[s];
                at[s] = ends.out[j] = scratch + s * most_rows * block;
                row[s] = out_row;
            }
            run(here.rows, count, here.v, left.from(here.n), panel.block(here.u, here.v, first), panel.depth, ends);
        }
    }
};

// Calls f(row, n, u, flags) for each sequence n of a tile and each vector of units, from u on, with the addresses of
// what the elementwise code of stage S loads and stores; `begin` is the first sequence of the share.
template <class Cell, class S, class T, class G>
FASTRNN_INLINE void each_row(const CallState<Cell, T>& run, const At<T>& at, const StepTile<T>& tile, TileAt here,
                             ptrdiff_t begin, G f) {
    // Local copies stay in registers; members would be reloaded after every store of a vector, which may alias
    // anything.
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
