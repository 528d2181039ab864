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

// The units of a row, in blocks of `vectors` vectors; what is left in blocks of half as many, down to one.
template <class T, class F> FASTRNN_INLINE void each_block(ptrdiff_t Hp, int vectors, F f) {
    for (ptrdiff_t u = 0; u < Hp;) {
        while ((Hp - u) / width<T> < vectors) vectors /= 2;
        f(u, vectors);
        u += vectors * width<T>;
    }
}

// Writes rows [0, depth) of `columns` units of B from unit `u` on, `to_row` numbers apart; zeros beyond H.
template <class T>
void pack_columns(T* to, ptrdiff_t to_row, Matrix<T> B, ptrdiff_t depth, ptrdiff_t H, ptrdiff_t u, ptrdiff_t columns) {
    const ptrdiff_t inside = H - u < columns ? (H - u > 0 ? H - u : 0) : columns;
    if (B.col == 1) {
        for (ptrdiff_t k = 0; k < depth; ++k) {
            const T* from = B.at + k * B.row + u;
            T* row = to + k * to_row;
            for (ptrdiff_t j = 0; j < columns; j += width<T>) store(row + j, load_head(from + j, inside - j));
        }
        return;
    }
    // Columns lie along memory: a few rows at a time, so that the lines written stay in the first-level cache.
    for (ptrdiff_t k0 = 0; k0 < depth; k0 += 16) {
        const ptrdiff_t k1 = k0 + 16 < depth ? k0 + 16 : depth;
        for (ptrdiff_t j = 0; j < inside; ++j) {
            const T* from = B.at + (u + j) * B.col;
            for (ptrdiff_t k = k0; k < k1; ++k) to[k * to_row + j] = from[k * B.row];
        }
        for (ptrdiff_t k = k0; k < k1; ++k)
            for (ptrdiff_t j = inside; j < columns; ++j) to[k * to_row + j] = 0;
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

// Packs matrices B(source, sum) of H columns. Every source has `rows` rows, and all but the last are followed by
// zeros up to `stride` rows.
template <class T, class F>
Panel<T> pack(T* at, int sources, int sums, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t H, ptrdiff_t Hp, int vectors, F B) {
    const Panel<T> panel{at, (sources - 1) * stride + rows, sums, 0, {}};
    each_block<T>(Hp, vectors, [&](ptrdiff_t u, int v) {
        const ptrdiff_t columns = v * width<T>;
        for (int g = 0; g < sums; g += max_sums) {
            const int count = sums - g < max_sums ? sums - g : max_sums;
            T* to = const_cast<T*>(panel.block(u, v, g));
            for (int i = 0; i < sources * count; ++i) {
                const int source = i / count, s = i % count;
                T* first = to + (source * stride * count + s) * columns;
                pack_columns(first, count * columns, B(source, g + s), rows, H, u, columns);
                if (source + 1 == sources) continue;
                for (ptrdiff_t k = rows; k < stride; ++k)
                    for (ptrdiff_t j = 0; j < columns; ++j) first[k * count * columns + j] = 0;
            }
        }
    });
    return panel;
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
