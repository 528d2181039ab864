// Packed matrices: the right side of the microkernel's products.
#pragma once

#include "cell.h"
#include "tile.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// A matrix in memory, any strides.
template <class T> struct Matrix {
    const T* at;
    ptrdiff_t row, col;
};

// Columns from `first` to `last`, whole vectors.
struct Range {
    ptrdiff_t first, last;
};

// A range in blocks of `vectors` vectors; what is left in blocks of half as many, down to one.
template <class T, class F> FASTRNN_INLINE void each_block(Range range, int vectors, F f) {
    for (ptrdiff_t u = range.first; u < range.last;) {
        while ((range.last - u) / width<T> < vectors) vectors /= 2;
        f(u, vectors);
        u += vectors * width<T>;
    }
}

// The same in turns from both ends: the matrices that a step read last are in a near cache when the next begins.
template <class T, class F> FASTRNN_INLINE void each_block(Range range, int vectors, bool backwards, F f) {
    if (!backwards) return each_block<T>(range, vectors, f);
    ptrdiff_t left = (range.last - range.first) / width<T>;
    for (int v = 1; left > 0; v = v < vectors ? 2 * v : v) {
        if (v < vectors && !(left % vectors & v)) continue;
        left -= v;
        f(range.first + left * width<T>, v);
    }
}

// One of `parts` shares of `columns` columns, in whole blocks of `vectors` vectors; the last has what is left as well.
template <class T> Range share(ptrdiff_t columns, int vectors, int parts, int part) {
    const ptrdiff_t block = vectors * width<T>, blocks = columns / block;
    return {blocks * part / parts * block, part + 1 < parts ? blocks * (part + 1) / parts * block : columns};
}

// Rows from `k` on of one column, of which `count` are left; zeros if it is not `inside`.
template <class T>
FASTRNN_INLINE Vec<T> column_part(Matrix<T> B, ptrdiff_t column, bool inside, ptrdiff_t k, ptrdiff_t count) {
    if (!inside) return Vec<T>{};
    const T* at = B.at + column * B.col + k * B.row;
    if (B.row == 1) return load_head(at, count);
    Vec<T> value{};
    for (int i = 0; i < width<T> && i < count; ++i) value[i] = at[i * B.row];
    return value;
}

// Writes rows [0, depth) of units [u, u + columns) of several matrices side by side; zeros beyond H.
template <class T>
void pack_columns(T* to, const Matrix<T>* B, int count, ptrdiff_t depth, ptrdiff_t H, ptrdiff_t u, ptrdiff_t columns) {
    const ptrdiff_t inside = H - u < columns ? (H - u > 0 ? H - u : 0) : columns, to_row = count * columns;
    if (B->col == 1) {
        // In the order of the memory that is written: what is read is found sooner than what is written is let go.
        for (ptrdiff_t k = 0; k < depth; ++k)
            for (int s = 0; s < count; ++s, to += columns) {
                const T* from = B[s].at + k * B[s].row + u;
                for (ptrdiff_t j = 0; j < columns; j += width<T>) store(to + j, load_head(from + j, inside - j));
            }
        return;
    }
    // Columns lie along memory: squares of whole vectors are transposed.
    for (int s = 0; s < count; ++s, to += columns)
        for (ptrdiff_t j = 0; j < columns; j += width<T>)
            for (ptrdiff_t k = 0; k < depth; k += width<T>) {
                Vec<T> square[width<T>];
                FASTRNN_UNROLL for (int i = 0; i < width<T>; ++i)
                    square[i] = column_part(B[s], u + j + i, j + i < inside, k, depth - k);
                transpose<T>(square);
                for (int i = 0; i < width<T> && k + i < depth; ++i) store(to + (k + i) * to_row + j, square[i]);
            }
}

// One product's matrices: for each block of units and each group of at most `max_sums` sums [depth][sums][vectors],
// or the matrices themselves, where each sum has an offset and `row` is not 0.
template <class T> struct Panel {
    const T* at;
    ptrdiff_t depth;
    int sums;
    ptrdiff_t row;
    ptrdiff_t offset[4];

    const T* block(ptrdiff_t u, int vectors, int group) const {
        return at + u * depth * sums + ptrdiff_t(group) * depth * vectors * width<T>;
    }
};

// Memory for a panel: every source has `rows` rows, and all but the last are followed by zeros up to `stride` rows.
template <class T> Panel<T> place(Workspace& memory, int sources, int sums, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t columns) {
    const ptrdiff_t depth = (sources - 1) * stride + rows;
    return {memory.take<T>(depth * sums * columns), depth, sums, 0, {}};
}

// Packs a range of matrices B(source, sum) of H columns.
template <class T, class F>
void pack(const Panel<T>& panel, int sources, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t H, Range range, int vectors, F B) {
    each_block<T>(range, vectors, [&](ptrdiff_t u, int v) {
        const ptrdiff_t columns = v * width<T>;
        for (int g = 0; g < panel.sums; g += max_sums) {
            const int count = panel.sums - g < max_sums ? panel.sums - g : max_sums;
            T* to = const_cast<T*>(panel.block(u, v, g));
            for (int source = 0; source < sources; ++source, to += stride * count * columns) {
                Matrix<T> matrix[max_sums];
                for (int s = 0; s < count; ++s) matrix[s] = B(source, g + s);
                pack_columns(to, matrix, count, rows, H, u, columns);
                if (source + 1 < sources) clear(to + rows * count * columns, (stride - rows) * count * columns);
            }
        }
    });
}

// Matrices B(sum) as they are: worth it where each is read so few times that packing would cost as much.
template <class T, class F> Panel<T> in_place(int sums, ptrdiff_t depth, F B) {
    Panel<T> panel{B(0).at, depth, sums, B(0).row, {}};
    for (int s = 0; s < sums; ++s) panel.offset[s] = B(s).at - panel.at;
    return panel;
}

// sums += a @ panel for one block of units and `rows` rows.
template <class T>
FASTRNN_INLINE void multiply(
    const Panel<T>& panel, ptrdiff_t u, int vectors, int rows, const T* a, ptrdiff_t a_row, const Ends<T>* ends) {
    for (int g = 0; g < panel.sums; g += max_sums) {
        const int count = panel.sums - g < max_sums ? panel.sums - g : max_sums;
        Columns<T> columns;
        if (panel.row) {
            columns.at = panel.at + u;
            columns.row = panel.row;
            for (int s = 0; s < count; ++s) columns.sum[s] = panel.offset[g + s];
            find_tile<T, Layout::direct>(1, count, vectors)(a, a_row, columns, panel.depth, ends[g / max_sums]);
        } else {
            columns.at = panel.block(u, vectors, g);
            find_tile<T, Layout::rows>(rows, count, vectors)(a, a_row, columns, panel.depth, ends[g / max_sums]);
        }
    }
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
