// Packed matrices: the right side of the microkernel's products.
#pragma once

#include "ahead.h"
#include "cell.h"

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

// Items of one column from row `k` on, of which `left` are left; zeros if it is not `inside`.
template <class F, class T>
FASTRNN_INLINE void column_part(Matrix<T> B, ptrdiff_t column, bool inside, ptrdiff_t k, ptrdiff_t left, Vec<typename F::Item>* parts) {
    const ptrdiff_t count = inside ? left : 0;
    const T* at = B.at + column * B.col + k * B.row;
    if (B.row == 1) return F::along(at, count, parts);
    T numbers[F::per_item * width<T>] = {};
    for (int i = 0; i < F::per_item * width<T> && i < count; ++i) numbers[i] = at[i * B.row];
    F::along(numbers, count, parts);
}

// Writes rows [0, depth) of units [u, u + columns) of several matrices side by side, parts `part` items apart; zeros
// beyond H, and beyond `depth` up to `items` rows of items.
template <class F, class T, class Item>
void pack_columns(Item* to, ptrdiff_t part, const Matrix<T>* B, int count, ptrdiff_t depth, ptrdiff_t items, ptrdiff_t H, ptrdiff_t u, ptrdiff_t columns) {
    const ptrdiff_t inside = H - u < columns ? (H - u > 0 ? H - u : 0) : columns, to_row = count * columns;
    const ptrdiff_t used = F::items_within(depth);
    for (int p = 0; p < F::parts; ++p) clear(to + p * part + used * to_row, (items - used) * to_row);
    Vec<Item> parts[F::parts];
    if (B->col == 1) {
        // In the order of the memory that is written: what is read is found sooner than what is written is let go.
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
    // Columns lie along memory: squares of whole vectors are transposed.
    constexpr int side = width<T>;
    for (int s = 0; s < count; ++s, to += columns)
        for (ptrdiff_t j = 0; j < columns; j += side)
            for (ptrdiff_t k = 0; k < depth; k += F::per_item * side) {
                Vec<Item> square[F::parts][side];
                FASTRNN_UNROLL for (int i = 0; i < side; ++i) {
                    column_part<F>(B[s], u + j + i, j + i < inside, k, depth - k, parts);
                    FASTRNN_UNROLL for (int p = 0; p < F::parts; ++p) square[p][i] = parts[p];
                }
                FASTRNN_UNROLL for (int p = 0; p < F::parts; ++p) {
                    transpose<Item>(square[p]);
                    for (int i = 0; i < side && k + F::per_item * i < depth; ++i)
                        store(to + p * part + (k / F::per_item + i) * to_row + j, square[p][i]);
                }
            }
}

// One product's matrices: for each block of units and each group of at most `max_sums` sums
// [part][depth][sums][vectors], or the matrices themselves, where each sum has an offset and `row` is not 0.
template <class F> struct Panel {
    using Item = typename F::Item;
    const Item* at;
    ptrdiff_t numbers, depth;  // of a column, and items that hold a part of them
    int sums;
    ptrdiff_t row;
    ptrdiff_t offset[4];

    const Item* block(ptrdiff_t u, int vectors, int group) const {
        return at + F::parts * depth * (u * sums + ptrdiff_t(group) * vectors * width<Item>);
    }
};

// Memory for a panel: every source has `rows` rows, and all but the last are followed by zeros up to `stride` rows.
template <class F> Panel<F> place(Workspace& memory, int sources, int sums, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t columns) {
    const ptrdiff_t numbers = (sources - 1) * stride + rows, depth = F::items(numbers);
    return {memory.take<typename F::Item>(F::parts * depth * sums * columns), numbers, depth, sums, 0, {}};
}

// Packs rows [k, k + depth) of matrices B(sum), v vectors of columns from u on, as items [first, first + items).
template <class F, class G>
void pack_block(const Panel<F>& panel, ptrdiff_t first, ptrdiff_t items, ptrdiff_t k, ptrdiff_t depth, ptrdiff_t H, ptrdiff_t u, int v, G B) {
    const ptrdiff_t columns = v * width<typename F::Number>;
    for (int g = 0; g < panel.sums; g += max_sums) {
        const int count = panel.sums - g < max_sums ? panel.sums - g : max_sums;
        const ptrdiff_t row = count * columns;
        Matrix<typename F::Number> matrix[max_sums];
        for (int s = 0; s < count; ++s) {
            matrix[s] = B(g + s);
            matrix[s].at += k * matrix[s].row;
        }
        auto* to = const_cast<typename F::Item*>(panel.block(u, v, g)) + first * row;
        pack_columns<F>(to, panel.depth * row, matrix, count, depth, items, H, u, columns);
    }
}

// Packs a range of matrices B(source, sum) of H columns.
template <class F, class G>
void pack(const Panel<F>& panel, int sources, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t H, Range range, int vectors, G B) {
    // Of rows that lie along memory a few at a time: all of a row is read before it is forgotten where it was.
    const ptrdiff_t strip = B(0, 0).col == 1 ? pack_rows * F::per_item : rows;
    for (int source = 0; source < sources; ++source) {
        const ptrdiff_t end = source + 1 < sources ? (source + 1) * stride / F::per_item : panel.depth;
        for (ptrdiff_t k = 0; k < rows; k += strip) {
            const ptrdiff_t depth = rows - k < strip ? rows - k : strip, first = (source * stride + k) / F::per_item;
            const ptrdiff_t items = k + depth < rows ? F::items_within(depth) : end - first;
            each_block<typename F::Number>(range, vectors, [&](ptrdiff_t u, int v) {
                pack_block(panel, first, items, k, depth, H, u, v, [&](int sum) { return B(source, sum); });
            });
        }
    }
}

// Matrices B(sum) of H columns as they are: worth it where each is read so few times that packing would cost as much.
template <class T, class G> Panel<Whole<T>> in_place(int sums, ptrdiff_t depth, G B) {
    Panel<Whole<T>> panel{B(0).at, depth, depth, sums, B(0).row, {}};
    for (int s = 0; s < sums; ++s) panel.offset[s] = B(s).at - panel.at;
    return panel;
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
FASTRNN_INLINE void add_rows(T* y, ptrdiff_t y_row, Side<T> a, ptrdiff_t rows, const T* B, ptrdiff_t row, ptrdiff_t count) {
    if (rows == 1) {
        Vec<T> number[K];
        FASTRNN_UNROLL for (int i = 0; i < K; ++i) number[i] = splat(a.at[i]);
        each_vector<T>(count, [&](ptrdiff_t j, ptrdiff_t left) __attribute__((always_inline)) {
            Vec<T> sum = load_head(y + j, left);
            FASTRNN_UNROLL for (int i = 0; i < K; ++i) sum += number[i] * load_head(B + i * row + j, left);
            store_head(y + j, sum, left);
        });
        return;
    }
    each_vector<T>(count, [&](ptrdiff_t j, ptrdiff_t left) __attribute__((always_inline)) {
        Vec<T> columns[K];
        FASTRNN_UNROLL for (int i = 0; i < K; ++i) columns[i] = load_head(B + i * row + j, left);
        for (ptrdiff_t n = 0; n < rows; ++n) {
            T* at = y + n * y_row + j;
            Vec<T> sum = load_head(at, left);
            FASTRNN_UNROLL for (int i = 0; i < K; ++i) sum += splat(a.at[n * a.row + i]) * columns[i];
            store_head(at, sum, left);
        }
    });
}

// sums[to[s]] += a @ B(s) for `rows` rows and a range of units, with the matrices as they are: they are read once, in
// the order of memory, and the sums stay in near caches.
template <class T>
void sweep(const Panel<Whole<T>>& panel, const int* to, Side<T> a, ptrdiff_t rows, Range units, ptrdiff_t H, bool backwards, SumRows<T> sums) {
    const ptrdiff_t count = units.last - units.first;
    // Sums that stand side by side as their matrices do are one.
    const bool whole = count == H && sums.sum == H;
    const auto follows = [&](int s) { return whole && s < panel.sums && to[s] == to[s - 1] + 1 && panel.offset[s] == panel.offset[s - 1] + H; };
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
    for (ptrdiff_t i = 0; i < blocks; ++i) add(std::integral_constant<int, many>{}, many * (backwards ? blocks - 1 - i : i));
    for (ptrdiff_t k = many * blocks; k < panel.depth; ++k) add(std::integral_constant<int, 1>{}, k);
}

// Matrices as they are, whose rows meet rows of the left side: source s of `depth` numbers begins `left[s]` numbers into
// a row of the left side, and `right[s]` into one of B.
template <class T> struct Transposed {
    const T* at;
    ptrdiff_t row, depth;
    int sources;
    ptrdiff_t left[4], right[4];
};

// y += a @ B.T for M rows of y and one vector of its columns, of which `inside` are there.
template <int M, class T>
FASTRNN_INLINE void add_dots(T* y, ptrdiff_t y_row, Side<T> a, const Transposed<T>& B, ptrdiff_t column, ptrdiff_t inside) {
    constexpr int W = width<T>, R = registers / 4 < W ? registers / 4 : W;
    Vec<T> sum[M][W];
    FASTRNN_UNROLL for (int g = 0; g < W; g += R) {
        Vec<T> part[M][R] = {};
        for (int s = 0; s < B.sources; ++s) {
            const T* row[R];
            FASTRNN_UNROLL for (int i = 0; i < R; ++i) row[i] = B.at + (column + (g + i < inside ? g + i : 0)) * B.row + B.right[s];
            each_vector<T>(B.depth, [&](ptrdiff_t j, ptrdiff_t left) __attribute__((always_inline)) {
                Vec<T> numbers[M];
                FASTRNN_UNROLL for (int m = 0; m < M; ++m) numbers[m] = load_head(a.at + m * a.row + B.left[s] + j, left);
                FASTRNN_UNROLL for (int i = 0; i < R; ++i) {
                    const Vec<T> weights = load_head(row[i] + j, left);
                    FASTRNN_UNROLL for (int m = 0; m < M; ++m) part[m][i] += numbers[m] * weights;
                }
            });
        }
        FASTRNN_UNROLL for (int m = 0; m < M; ++m) FASTRNN_UNROLL for (int i = 0; i < R; ++i) sum[m][g + i] = part[m][i];
    }
    FASTRNN_UNROLL for (int m = 0; m < M; ++m) {
        transpose<T>(sum[m]);
        FASTRNN_UNROLL for (int step = 1; step < W; step *= 2)
            FASTRNN_UNROLL for (int i = 0; i < W; i += 2 * step) sum[m][i] += sum[m][i + step];
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

// sums += a @ panel for one block of units and `rows` rows, and beside it what is due of a projection.
template <class F>
FASTRNN_INLINE void multiply(const Panel<F>& panel, ptrdiff_t u, int vectors, int rows, Side<typename F::Item> a,
                             const Ends<typename F::Number>* ends, Ahead<typename F::Number>* ahead = nullptr) {
    for (int g = 0; g < panel.sums; g += max_sums) {
        const int count = panel.sums - g < max_sums ? panel.sums - g : max_sums;
        if constexpr (can_project_ahead<F>)
            if (ahead && ahead->due()) {
                run_beside(count, vectors, a.at, panel.block(u, vectors, g), panel.depth, ends[g / max_sums], ahead->take());
                continue;
            }
        run_tile<F, Layout::rows>(rows, count, vectors, a, panel.block(u, vectors, g), panel.depth, ends[g / max_sums]);
    }
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
