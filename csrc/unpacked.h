// Products with the weights in place, not packed: for calls that read each matrix so few times that packing would cost
// as much.
#pragma once

#include "packed.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// The matrices of one product in place: matrix s (depth, H) begins at `at + offset[s]`, rows contiguous and `row`
// apart.
template <class T> struct InPlace {
    const T* at;
    ptrdiff_t row, depth;
    int sums;
    ptrdiff_t offset[max_stage_sums];
};

template <class T, class G> InPlace<T> in_place(int sums, ptrdiff_t depth, G B) {
    InPlace<T> matrices{B(0).at, B(0).row, depth, sums, {}};
    for (int s = 0; s < sums; ++s) matrices.offset[s] = B(s).at - matrices.at;
    return matrices;
}

// The sums of several rows: sum s of row n begins at `at + n * row + s * sum`.
template <class T> struct SumRows {
    T* at;
    ptrdiff_t row, sum;
};

// Calls f(j, left) for every vector of `count` elements, of which `left` are from j on (at most a vector).
template <class T, class F> FASTRNN_INLINE void each_vector(ptrdiff_t count, F f) {
    ptrdiff_t j = 0;
    for (; j + width<T> <= count; j += width<T>) f(j, width<T>);
    if (j < count) f(j, count - j);
}

// y (rows, count) += a (rows, K) @ B (K, count); all rows contiguous.
template <int K, class T>
FASTRNN_INLINE void add_rows(T* y, ptrdiff_t y_row, Rows<T> a, ptrdiff_t rows, const T* B, ptrdiff_t row,
                             ptrdiff_t count) {
    if (rows == 1) {
        Vec<T> value[K];
        FASTRNN_UNROLL (int i = 0; i < K; ++i) value[i] = splat(a.at[i]);
        each_vector<T>(count, [&](ptrdiff_t j, ptrdiff_t left) __attribute__((always_inline)) {
            Vec<T> sum = load_head(y + j, left);
            FASTRNN_UNROLL (int i = 0; i < K; ++i) sum += value[i] * load_head(B + i * row + j, left);
            store_head(y + j, sum, left);
        });
        return;
    }
    each_vector<T>(count, [&](ptrdiff_t j, ptrdiff_t left) __attribute__((always_inline)) {
        Vec<T> columns[K];
        FASTRNN_UNROLL (int i = 0; i < K; ++i) columns[i] = load_head(B + i * row + j, left);
        for (ptrdiff_t n = 0; n < rows; ++n) {
            T* at = y + n * y_row + j;
            Vec<T> sum = load_head(at, left);
            FASTRNN_UNROLL (int i = 0; i < K; ++i) sum += splat(a.at[n * a.row + i]) * columns[i];
            store_head(at, sum, left);
        }
    });
}

// GEMM with matrices in place: sums[to[s]] += a @ B[s] for a range of units. The matrices are streamed once, in the
// order of memory (or from the last rows to the first if `backwards`), and the sums stay in cache.
//
//     a       in     (rows, depth)                  rows contiguous
//     panel   in     matrices B[s] (depth, H)       rows contiguous
//     sums    inout  (rows, sums, H)                see SumRows
template <class T>
void multiply_in_place(const InPlace<T>& panel, const int* to, Rows<T> a, ptrdiff_t rows, Range units, ptrdiff_t H,
                       bool backwards, SumRows<T> sums) {
    const ptrdiff_t count = units.last - units.first;
    // Sums that are contiguous, as are their matrices, are computed as one.
    const bool side_by_side = count == H && sums.sum == H;
    const auto follows = [&](int s) {
        return side_by_side && s < panel.sums && to[s] == to[s - 1] + 1 && panel.offset[s] == panel.offset[s - 1] + H;
    };
    const auto add = [&](auto some, ptrdiff_t k) {
        for (int s = 0; s < panel.sums;) {
            const int first = s++;
            while (follows(s)) ++s;
            const T* B = panel.at + k * panel.row + panel.offset[first] + units.first;
            T* y = sums.at + to[first] * sums.sum + units.first;
            add_rows<some>(y, sums.row, Rows<T>{a.at + k, a.row}, rows, B, panel.row, (s - first - 1) * H + count);
        }
    };
    constexpr int many = unpacked_rows;
    const ptrdiff_t blocks = panel.depth / many;
    for (ptrdiff_t i = 0; i < blocks; ++i)
        add(std::integral_constant<int, many>{}, many * (backwards ? blocks - 1 - i : i));
    for (ptrdiff_t k = many * blocks; k < panel.depth; ++k) add(std::integral_constant<int, 1>{}, k);
}

// Matrices in place whose rows meet rows of the left operand: source s, `depth` elements, begins `s * left` elements
// into a row of the left operand and `right[s]` into a row of B.
template <class T> struct Transposed {
    const T* at;
    ptrdiff_t row, depth;
    int sources;
    ptrdiff_t left, right[max_sources];
};

// y += a @ B^T for M rows of y and one vector of columns, of which `inside` exist.
template <int M, class T>
FASTRNN_INLINE void add_transposed(T* y, ptrdiff_t y_row, Rows<T> a, const Transposed<T>& B, ptrdiff_t column,
                                   ptrdiff_t inside) {
    constexpr int W = width<T>, R = registers / 4 < W ? registers / 4 : W;
    Vec<T> sum[M][W];
    FASTRNN_UNROLL (int g = 0; g < W; g += R) {
        Vec<T> part[M][R] = {};
        for (int s = 0; s < B.sources; ++s) {
            const T* row[R];
            FASTRNN_UNROLL (int i = 0; i < R; ++i)
                row[i] = B.at + (column + (g + i < inside ? g + i : 0)) * B.row + B.right[s];
            each_vector<T>(B.depth, [&](ptrdiff_t j, ptrdiff_t left) __attribute__((always_inline)) {
                Vec<T> elements[M];
                FASTRNN_UNROLL (int m = 0; m < M; ++m) elements[m] = load_head(a.at + m * a.row + s * B.left + j, left);
                FASTRNN_UNROLL (int i = 0; i < R; ++i) {
                    const Vec<T> weights = load_head(row[i] + j, left);
                    FASTRNN_UNROLL (int m = 0; m < M; ++m) part[m][i] += elements[m] * weights;
                }
            });
        }
        FASTRNN_UNROLL (int m = 0; m < M; ++m)
            FASTRNN_UNROLL (int i = 0; i < R; ++i) sum[m][g + i] = part[m][i];
    }
    FASTRNN_UNROLL (int m = 0; m < M; ++m) {
        transpose<T>(sum[m]);
        FASTRNN_UNROLL (int step = 1; step < W; step *= 2)
            FASTRNN_UNROLL (int i = 0; i < W; i += 2 * step) sum[m][i] += sum[m][i + step];
        T* to = y + m * y_row + column;
        store_head(to, load_head(to, inside) + sum[m][0], inside);
    }
}

// GEMM with transposed matrices in place: y += a @ B^T for a range of columns of y, which are rows of B.
//
//     a  in     (rows, sources * left)    rows contiguous
//     B  in     (columns, ...)            see Transposed
//     y  inout  (rows, columns)           rows contiguous, `y_row` apart
template <class T>
void multiply_transposed(T* y, ptrdiff_t y_row, Rows<T> a, ptrdiff_t rows, Range columns, const Transposed<T>& B) {
    for (ptrdiff_t u = columns.first; u < columns.last; u += width<T>) {
        ptrdiff_t n = 0;
        for (; n + 2 <= rows; n += 2) add_transposed<2>(y + n * y_row, y_row, a.from(n), B, u, columns.last - u);
        if (n < rows) add_transposed<1>(y + n * y_row, y_row, a.from(n), B, u, columns.last - u);
    }
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
