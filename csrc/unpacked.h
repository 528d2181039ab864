// Products with the weights read where they are: worth it where each matrix is read so few times that packing it would
// cost as much.
#pragma once

#include "packed.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// The matrices of one product: matrix s of `depth` rows begins at `at + offset[s]`.
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

// Where the sums of rows stand: `row` from one row to the next, `sum` from one sum to the next.
template <class T> struct SumRows {
    T* at;
    ptrdiff_t row, sum;
};

// Calls f(j, left) for every vector of `count` numbers: all of it is left but in the last one.
template <class T, class F> FASTRNN_INLINE void each_vector(ptrdiff_t count, F f) {
    ptrdiff_t j = 0;
    for (; j + width<T> <= count; j += width<T>) f(j, width<T>);
    if (j < count) f(j, count - j);
}

// y += a @ B for K rows of B, of `count` columns.
template <int K, class T>
FASTRNN_INLINE void add_rows(T* y, ptrdiff_t y_row, Side<T> a, ptrdiff_t rows, const T* B, ptrdiff_t row,
                             ptrdiff_t count) {
    if (rows == 1) {
        Vec<T> number[K];
        FASTRNN_UNROLL (int i = 0; i < K; ++i) number[i] = splat(a.at[i]);
        each_vector<T>(count, [&](ptrdiff_t j, ptrdiff_t left) __attribute__((always_inline)) {
            Vec<T> sum = load_head(y + j, left);
            FASTRNN_UNROLL (int i = 0; i < K; ++i) sum += number[i] * load_head(B + i * row + j, left);
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

// sums[to[s]] += a @ B(s) for `rows` rows and a range of units, with the matrices as they are: they are read once, in
// the order of memory, and the sums stay in near caches.
template <class T>
void sweep(const InPlace<T>& panel, const int* to, Side<T> a, ptrdiff_t rows, Range units, ptrdiff_t H, bool backwards,
           SumRows<T> sums) {
    const ptrdiff_t count = units.last - units.first;
    // Sums that stand side by side as their matrices do are one.
    const bool whole = count == H && sums.sum == H;
    const auto follows = [&](int s) {
        return whole && s < panel.sums && to[s] == to[s - 1] + 1 && panel.offset[s] == panel.offset[s - 1] + H;
    };
    const auto add = [&](auto some, ptrdiff_t k) {
        for (int s = 0; s < panel.sums;) {
            const int first = s++;
            while (follows(s)) ++s;
            const T* B = panel.at + k * panel.row + panel.offset[first] + units.first;
            T* y = sums.at + to[first] * sums.sum + units.first;
            add_rows<some>(y, sums.row, Side<T>{a.at + k, a.row}, rows, B, panel.row, (s - first - 1) * H + count);
        }
    };
    constexpr int many = unpacked_rows;
    const ptrdiff_t blocks = panel.depth / many;
    for (ptrdiff_t i = 0; i < blocks; ++i)
        add(std::integral_constant<int, many>{}, many * (backwards ? blocks - 1 - i : i));
    for (ptrdiff_t k = many * blocks; k < panel.depth; ++k) add(std::integral_constant<int, 1>{}, k);
}

// Matrices as they are, whose rows meet rows of the left side: source s of `depth` numbers begins `left[s]` numbers
// into a row of the left side, and `right[s]` into one of B.
template <class T> struct Transposed {
    const T* at;
    ptrdiff_t row, depth;
    int sources;
    ptrdiff_t left[max_sources], right[max_sources];
};

// y += a @ B.T for M rows of y and one vector of its columns, of which `inside` are there.
template <int M, class T>
FASTRNN_INLINE void add_dots(T* y, ptrdiff_t y_row, Side<T> a, const Transposed<T>& B, ptrdiff_t column,
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
                Vec<T> numbers[M];
                FASTRNN_UNROLL (int m = 0; m < M; ++m) numbers[m] = load_head(a.at + m * a.row + B.left[s] + j, left);
                FASTRNN_UNROLL (int i = 0; i < R; ++i) {
                    const Vec<T> weights = load_head(row[i] + j, left);
                    FASTRNN_UNROLL (int m = 0; m < M; ++m) part[m][i] += numbers[m] * weights;
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

// y += a @ B.T for `rows` rows and a range of columns of y: rows of B, with the matrices as they are.
template <class T> void dots(T* y, ptrdiff_t y_row, Side<T> a, ptrdiff_t rows, Range columns, const Transposed<T>& B) {
    for (ptrdiff_t u = columns.first; u < columns.last; u += width<T>) {
        ptrdiff_t n = 0;
        for (; n + 2 <= rows; n += 2) add_dots<2>(y + n * y_row, y_row, a.from(n), B, u, columns.last - u);
        if (n < rows) add_dots<1>(y + n * y_row, y_row, a.from(n), B, u, columns.last - u);
    }
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
