// The remainder of H modulo the vector width: the remaining units of all sums of a stage share vectors, side by side,
// with packed columns of their own. A stage of 3 sums over H = 35 units, in vectors of 16:
//
//     sum 0 | sum 1 | sum 2:  units 0 to 31 of each, packed as in packed.h
//     merged:                 | sum 0: 32 33 34 | sum 1: 32 33 34 | sum 2: 32 33 34 | zeros |
#pragma once

#include "step_tile.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Number of vectors that hold the remaining units of all sums of a stage; 0 if that would not save a vector.
template <class Stage, class T> int merged_vectors(ptrdiff_t H) {
    const ptrdiff_t units = H % width<T>, elements = Stage::sums * units, vectors = elements <= width<T> ? 1 : 2;
    return units && vectors < Stage::sums && elements <= vectors * width<T> ? int(vectors) : 0;
}

// Whether it saves a vector in any stage of a cell.
template <class Cell, class T> bool can_merge(ptrdiff_t H) {
    bool can = false;
    Cell::forward::each([&](auto stage, int) { can |= merged_vectors<decltype(stage), T>(H) > 0; });
    return can;
}

// The merged units of one stage.
template <class F> class Merged {
    using T = typename F::Element;

  public:
    int vectors = 0;  // 0: none are merged

    // B(product, sum of the product) is a matrix (depth(product), H), `bias(sum)` a row (H) that the sum begins with.
    template <class S, class Depth, class Get, class Row_>
    void place(S, Workspace& memory, ptrdiff_t H, Depth depth, Get B, Row_ bias) {
        vectors = merged_vectors<S, T>(H);
        if (!vectors) return;
        units = H % width<T>;
        const ptrdiff_t columns = vectors * width<T>, first = H - units;
        T* row = memory.take<T>(columns);
        clear(row, columns);
        for (int a = 0; a < S::sums; ++a) copy_row(row + a * units, bias(a) + first, units);
        begin = row;
        for (int p = 0; p < S::products; ++p) {
            T* to = memory.take<T>(depth(p) * columns);
            clear(to, depth(p) * columns);
            for (int s = 0; s < S::product[p].sums; ++s)
                copy_columns(to + S::product[p].sum[s] * units, columns, B(p, s), depth(p), first);
            product[p] = {{to, depth(p), depth(p), 1}, S::product[p].sums == S::sums, {}};
            mark_others(product[p], S::product[p]);
        }
    }

    // The sums of a tile of sequences; `left[p]` is the left operand of product p.
    template <class S> void sums(S, const Rows<typename F::Item>* left, TileAt here, StepTile<T>& tile) const {
        Ends<T> ends{{begin}, {0}, {tile.scratch}, vectors * width<T>};
        for (int p = 0; p < S::products; ++p) add(product[p], left[p].from(here.n), here.rows, ends, tile.scratch);
        for (int a = 0; a < S::sums; ++a) {
            tile.at[a] = tile.scratch + a * units;
            tile.row[a] = ends.out_row;
        }
    }

  private:
    // The packed columns of a product, whether it adds to all sums, and a mask of the lanes of those that it does not
    // add to.
    struct Columns {
        Panel<F> panel;
        bool all;
        typename Simd<T>::Ints others[2];
    };
    ptrdiff_t units;
    const T* begin;
    Columns product[max_products];

    void copy_columns(T* to, ptrdiff_t columns, Matrix<T> B, ptrdiff_t depth, ptrdiff_t first) const {
        for (ptrdiff_t k = 0; k < depth; ++k)
            for (ptrdiff_t j = 0; j < units; ++j) to[k * columns + j] = B.at[k * B.row + (first + j) * B.col];
    }

    void mark_others(Columns& columns, const Product& of) const {
        for (ptrdiff_t at = 0; at < vectors * width<T>; ++at) {
            bool other = true;
            for (int s = 0; s < of.sums; ++s) other &= at / units != of.sum[s];
            columns.others[at / width<T>][at % width<T>] = other ? -1 : 0;
        }
    }

    // A product that adds to only some of the sums must leave the others unchanged: their columns are zero, but zero
    // times infinity is NaN.
    void add(const Columns& columns, Rows<typename F::Item> left, int rows, Ends<T>& ends, T* scratch) const {
        const T* before = ends.begin[0];
        const ptrdiff_t row = ends.out_row, before_row = ends.begin_row[0];
        ends.out[0] = columns.all ? scratch : scratch + most_rows * row;
        run_tile<F, Layout::rows>(rows, 1, vectors, left, columns.panel.at, columns.panel.depth, ends);
        for (int r = 0; r < rows && !columns.all; ++r)
            for (int v = 0; v < vectors; ++v) {
                const ptrdiff_t at = v * width<T>;
                const Vec<T> sum = load(ends.out[0] + r * row + at), kept = load(before + r * before_row + at);
                store(scratch + r * row + at, columns.others[v] ? kept : sum);
            }
        ends.begin[0] = scratch;
        ends.begin_row[0] = row;
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
