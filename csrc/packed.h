// Packed matrices: the right operand of the microkernel.
#pragma once

#include "cell.h"
#include "tile.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// A matrix of any strides.
template <class T> struct Matrix {
    const T* at;
    ptrdiff_t row, col;
};

// Columns from `first` to `last`, whole vectors.
struct Range {
    ptrdiff_t first, last;
};

// Calls f(first column, vectors) for a range in blocks of `vectors` vectors, and the rest in blocks of half as many,
// down to one. Steps go through the blocks in alternating directions: what one step read last is still in cache when
// the next begins with it. There is a single call of f, so that it is inlined.
template <class T, class F> FASTRNN_INLINE void each_block(Range range, int vectors, bool backwards, F f) {
    for (ptrdiff_t left = (range.last - range.first) / width<T>, done = 0; left > 0;) {
        const int rest = int(left % vectors);
        if (!backwards)
            while (left < vectors) vectors /= 2;
        const int v = backwards && rest ? rest & -rest : vectors;
        left -= v;
        f(range.first + (backwards ? left : done) * width<T>, v);
        done += v;
    }
}

// Share `part` of `parts` of the columns, in whole blocks of `vectors` vectors; the last share also gets the rest.
template <class T> Range share(ptrdiff_t columns, int vectors, int parts, int part) {
    const ptrdiff_t block = vectors * width<T>, blocks = columns / block;
    return {blocks * part / parts * block, part + 1 < parts ? blocks * (part + 1) / parts * block : columns};
}

// One vector of items of a column of B, from row `k` on, where `left` rows are left; zeros unless `inside`.
template <class F, class T>
FASTRNN_INLINE void column_part(Matrix<T> B, ptrdiff_t column, bool inside, ptrdiff_t k, ptrdiff_t left,
                                Vec<typename F::Item>* parts) {
    const ptrdiff_t count = inside ? left : 0;
    const T* at = B.at + column * B.col + k * B.row;
    if (B.row == 1) return F::along(at, count, parts);
    T elements[F::per_item * width<T>] = {};
    for (int i = 0; i < F::per_item * width<T> && i < count; ++i) elements[i] = at[i * B.row];
    F::along(elements, count, parts);
}

// Packs a block of columns of several matrices side by side.
//
//     B   in   `count` matrices (depth, H) of the same strides, one of which is 1; columns [u, u + columns) are read
//     to  out  [term][items][count][columns], terms `part` items apart; zeros beyond H and beyond `depth`
template <class F, class T, class Item>
void pack_columns(Item* to, ptrdiff_t part, const Matrix<T>* B, int count, ptrdiff_t depth, ptrdiff_t items,
                  ptrdiff_t H, ptrdiff_t u, ptrdiff_t columns) {
    const ptrdiff_t inside = H - u < columns ? (H - u > 0 ? H - u : 0) : columns, to_row = count * columns;
    const ptrdiff_t used = F::items_within(depth);
    for (int p = 0; p < F::parts; ++p) clear(to + p * part + used * to_row, (items - used) * to_row);
    Vec<Item> parts[F::parts];
    if (B->col == 1) {
        // In the order of the destination: strided reads are prefetched, strided writes are not.
        for (ptrdiff_t k = 0; k < depth; k += F::per_item)
            for (int s = 0; s < count; ++s, to += columns) {
                const T* from = B[s].at + k * B[s].row + u;
                for (ptrdiff_t j = 0; j < columns; j += width<T>) {
                    Vec<T> rows[F::per_item];
                    for (int i = 0; i < F::per_item; ++i)
                        rows[i] = load_head(from + i * B[s].row + j, k + i < depth ? inside - j : 0);
                    F::across(rows, parts);
                    for (int p = 0; p < F::parts; ++p) store(to + p * part + j, parts[p]);
                }
            }
        return;
    }
    // Columns are contiguous: transpose squares of whole vectors.
    constexpr int side = width<T>;
    for (int s = 0; s < count; ++s, to += columns)
        for (ptrdiff_t j = 0; j < columns; j += side)
            for (ptrdiff_t k = 0; k < depth; k += F::per_item * side) {
                Vec<Item> square[F::parts][side];
                FASTRNN_UNROLL (int i = 0; i < side; ++i) {
                    column_part<F>(B[s], u + j + i, j + i < inside, k, depth - k, parts);
                    FASTRNN_UNROLL (int p = 0; p < F::parts; ++p) square[p][i] = parts[p];
                }
                FASTRNN_UNROLL (int p = 0; p < F::parts; ++p) {
                    transpose<Item>(square[p]);
                    for (int i = 0; i < side && k + F::per_item * i < depth; ++i)
                        store(to + p * part + (k / F::per_item + i) * to_row + j, square[p][i]);
                }
            }
}

// The packed matrices of one product: for each block of `vectors` vectors of columns, and in it for each group of at
// most `max_sums` sums, [term][depth][sums][vectors].
//
//     block u, group 0: | part 0: k=0: sum 0 | sum 1 | .. | k=1: sum 0 | .. | .. | part 1: .. | block u, group 1: | ..
template <class F> struct Panel {
    using Item = typename F::Item;
    const Item* at;
    ptrdiff_t elements, depth;  // elements of a column, and items that hold one term of them
    int sums;

    const Item* block(ptrdiff_t u, int vectors, int group) const {
        return at + F::parts * depth * (u * sums + ptrdiff_t(group) * vectors * width<Item>);
    }
};

// Takes memory for a panel. Every source has `rows` rows; all but the last are padded with zeros to `stride` rows.
template <class F>
Panel<F> place(Workspace& memory, int sources, int sums, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t columns) {
    const ptrdiff_t elements = (sources - 1) * stride + rows, depth = F::items(elements);
    return {memory.take<typename F::Item>(F::parts * depth * sums * columns), elements, depth, sums};
}

// Packs rows [k, k + depth) and v vectors of columns from u on of the matrices B(sum), as items [first, first + items).
template <class F, class G>
void pack_block(const Panel<F>& panel, ptrdiff_t first, ptrdiff_t items, ptrdiff_t k, ptrdiff_t depth, ptrdiff_t H,
                ptrdiff_t u, int v, G B) {
    const ptrdiff_t columns = v * width<typename F::Element>;
    for (int g = 0; g < panel.sums; g += max_sums) {
        const int count = panel.sums - g < max_sums ? panel.sums - g : max_sums;
        const ptrdiff_t row = count * columns;
        Matrix<typename F::Element> matrix[max_sums];
        for (int s = 0; s < count; ++s) {
            matrix[s] = B(g + s);
            matrix[s].at += k * matrix[s].row;
        }
        auto* to = const_cast<typename F::Item*>(panel.block(u, v, g)) + first * row;
        pack_columns<F>(to, panel.depth * row, matrix, count, depth, items, H, u, columns);
    }
}

// Packs a range of the columns of the matrices B(source, sum), (rows, H) each.
template <class F, class G>
void pack(const Panel<F>& panel, int sources, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t H, Range range, int vectors,
          G B) {
    // Contiguous rows are packed in strips of a few: every page of the source is read while the TLB still holds it.
    const ptrdiff_t strip = B(0, 0).col == 1 ? pack_rows * F::per_item : rows;
    for (int source = 0; source < sources; ++source) {
        const ptrdiff_t end = source + 1 < sources ? (source + 1) * stride / F::per_item : panel.depth;
        for (ptrdiff_t k = 0; k < rows; k += strip) {
            const ptrdiff_t depth = rows - k < strip ? rows - k : strip, first = (source * stride + k) / F::per_item;
            const ptrdiff_t items = k + depth < rows ? F::items_within(depth) : end - first;
            each_block<typename F::Element>(range, vectors, false, [&](ptrdiff_t u, int v) {
                pack_block(panel, first, items, k, depth, H, u, v, [&](int sum) { return B(source, sum); });
            });
        }
    }
}

// Runs a tile and nothing beside it; see project_ahead.h for the other.
template <class F> struct Alone {
    FASTRNN_INLINED void operator()(int rows, int sums, int vectors, Rows<typename F::Item> a,
                                    const typename F::Item* B, ptrdiff_t depth,
                                    const Ends<typename F::Element>& ends) const {
        run_tile<F, Layout::rows>(rows, sums, vectors, a, B, depth, ends);
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
