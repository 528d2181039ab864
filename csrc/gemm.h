// Products over many steps at once: the projection of the input, its gradient, and the gradients of the weights.
#pragma once

#include "panel.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Columns of a product over many rows come in panels of two vectors: with 14 rows they fill the registers.
constexpr int gemm_vectors = 2;
constexpr int gemm_rows = max_rows(gemm_vectors);
// Rows of B that are packed at once: a panel of them stays in the second-level cache, a tile of A in the first.
constexpr ptrdiff_t gemm_depth = 512;

// Rows in memory at two strides: sequences within steps.
template <class T> struct Rows {
    T* at;
    ptrdiff_t step, row;
};

// out = begin + A @ B, for `steps` times `count` rows. `begin` is one row, or null for zeros; `packed(u, v)` gives v
// vectors of columns of B from column u on, each row after the other.
template <class T, class F>
void project(Rows<const T> A, ptrdiff_t depth, F packed, const T* begin, Rows<T> out, ptrdiff_t steps, ptrdiff_t count, ptrdiff_t columns) {
    if (A.step == count * A.row && out.step == count * out.row) {
        count *= steps;
        steps = 1;
    }
    alignas(64) static const T zeros[gemm_vectors * width<T>] = {};
    const ptrdiff_t padded = (columns + width<T> - 1) / width<T> * width<T>;
    each_block<T>(Range{0, padded}, gemm_vectors, [&](ptrdiff_t u, int v) {
        const ptrdiff_t inside = columns - u, block = v * width<T>;
        const Columns<T> B{packed(u, v), 0, {}};
        alignas(64) T edge[gemm_rows * gemm_vectors * width<T>];
        Ends<T> ends{{begin ? begin + u : zeros}, {0}, {nullptr}, out.row};
        for (ptrdiff_t s = 0; s < steps; ++s) {
            for (ptrdiff_t n = 0; n < count;) {
                const int rows = balanced(n, count, gemm_rows);
                T* to = out.at + s * out.step + n * out.row + u;
                ends.out[0] = inside < block ? edge : to;
                ends.out_row = inside < block ? block : out.row;
                find_tile<T, Layout::rows>(rows, 1, v)(A.at + s * A.step + n * A.row, A.row, B, depth, ends);
                if (inside < block)
                    for (int r = 0; r < rows; ++r)
                        for (ptrdiff_t j = 0; j < inside; ++j) to[r * out.row + j] = edge[r * block + j];
                n += rows;
            }
        }
    });
}

// The left side of a weight gradient: `count` columns of rows in memory, packed as tiles of [depth][R].
template <class T> struct Left {
    T* at;
    ptrdiff_t count, depth;

    // Calls f(first column, columns, packed) for each tile.
    template <class F> void each_tile(F f) const {
        for (ptrdiff_t m = 0; m < count;) {
            const int rows = balanced(m, count, gemm_rows);
            f(m, rows, at + m * depth);
            m += rows;
        }
    }

    void set_row(ptrdiff_t k, const T* from) const {
        each_tile([&](ptrdiff_t m, int rows, T* packed) {
            copy_row(packed + k * rows, from + m, rows);
        });
    }
};

// to += left.T @ right for one packed panel of `vectors` vectors of columns; `fresh`: to holds nothing yet.
template <class T> void add_outer(const Left<T>& left, const T* right, int vectors, T* to, ptrdiff_t to_row, bool fresh) {
    alignas(64) static const T zeros[gemm_vectors * width<T>] = {};
    const Columns<T> columns{right, 0, {}};
    left.each_tile([&](ptrdiff_t m, int rows, const T* packed) {
        T* first = to + m * to_row;
        const Ends<T> ends{{fresh ? zeros : first}, {fresh ? 0 : to_row}, {first}, to_row};
        const Tile<T> run = find_tile<T, Layout::packed>(rows, 1, vectors);
        run(packed, 0, columns, left.depth, ends);
    });
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
