// Products over many steps at once: the projection of the input, its gradient, and the gradients of the weights.
#pragma once

#include "packed.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Columns of a product over many rows come in panels of two vectors: with 14 rows they fill the registers.
constexpr int gemm_vectors = 2;
constexpr int gemm_rows = max_rows(gemm_vectors);
// Rows in memory at two strides: sequences within steps.
template <class T> struct Rows {
    T* at;
    ptrdiff_t step, row;
};

// The left side of a product over many steps: `steps` times `count` rows of `depth` numbers, in `memory` where they
// are not taken as they are.
template <class F>
Rows<const typename F::Item> factors(Rows<const typename F::Number> A, ptrdiff_t steps, ptrdiff_t count,
                                     ptrdiff_t depth, typename F::Item* memory) {
    if constexpr (F::per_item == 1) return A;
    const ptrdiff_t size = F::left_size(1, depth);
    for (ptrdiff_t s = 0; s < steps; ++s) F::rows(A.at + s * A.step, A.row, count, depth, memory + s * count * size);
    return {memory, count * size, size};
}

// out = begin + A @ B, for `steps` times `count` rows. `begin` is one row, or null for zeros; `packed(u, v)` gives v
// vectors of columns of B from column u on, each row after the other.
template <class F, class G>
void project(Rows<const typename F::Item> A, ptrdiff_t depth, G packed, const typename F::Number* begin,
             Rows<typename F::Number> out, ptrdiff_t steps, ptrdiff_t count, ptrdiff_t columns) {
    using T = typename F::Number;
    if (A.step == count * A.row && out.step == count * out.row) {
        count *= steps;
        steps = 1;
    }
    alignas(64) static const T zeros[gemm_vectors * width<T>] = {};
    const ptrdiff_t padded = (columns + width<T> - 1) / width<T> * width<T>;
    each_block<T>(Range{0, padded}, gemm_vectors, [&](ptrdiff_t u, int v) {
        const ptrdiff_t inside = columns - u, block = v * width<T>;
        const typename F::Item* B = packed(u, v);
        alignas(64) T edge[gemm_rows * gemm_vectors * width<T>];
        Ends<T> ends{{begin ? begin + u : zeros}, {0}, {nullptr}, out.row};
        for (ptrdiff_t s = 0; s < steps; ++s) {
            for (ptrdiff_t n = 0; n < count;) {
                const int rows = balanced(n, count, gemm_rows);
                T* to = out.at + s * out.step + n * out.row + u;
                ends.out[0] = inside < block ? edge : to;
                ends.out_row = inside < block ? block : out.row;
                run_tile<F, Layout::rows>(rows, 1, v, {A.at + s * A.step + n * A.row, A.row}, B, depth, ends);
                if (inside < block)
                    for (int r = 0; r < rows; ++r)
                        for (ptrdiff_t j = 0; j < inside; ++j) to[r * out.row + j] = edge[r * block + j];
                n += rows;
            }
        }
    });
}

// The left side of a weight gradient: `count` columns of `numbers` rows in memory, which are the depth of the product.
// Taken as it is, it is packed as tiles of [depth][R]; else each column becomes a row of items.
template <class F> struct Left {
    using T = typename F::Number;
    using Item = typename F::Item;
    static constexpr Layout layout = F::per_item == 1 ? Layout::packed : Layout::rows;
    Item* at;
    ptrdiff_t count, numbers;

    static ptrdiff_t size(ptrdiff_t count, ptrdiff_t numbers) { return F::parts * F::items(numbers) * count; }

    // Calls f(first column, columns, side) for each tile.
    template <class G> void each_tile(G f) const {
        const ptrdiff_t of_column = size(1, numbers);
        for (ptrdiff_t m = 0; m < count;) {
            const int rows = balanced(m, count, gemm_rows);
            f(m, rows, Side<Item>{at + m * of_column, of_column});
            m += rows;
        }
    }

    // Each call of next() gives the next row of the memory.
    template <class G> void fill(G next) const {
        if constexpr (F::per_item == 1)
            for (ptrdiff_t k = 0; k < numbers; ++k) {
                const T* from = next();
                each_tile([&](ptrdiff_t m, int rows, Side<Item> side) {
                    copy_row(const_cast<T*>(side.at) + k * rows, from + m, rows);
                });
            }
        else
            for (ptrdiff_t k = 0; k < numbers; k += F::per_item * width<Item>) fill_square(next, k);
    }

  private:
    // The rows from k on that are an item's vector in every column.
    template <class G> void fill_square(G& next, ptrdiff_t k) const {
        constexpr int side = width<Item>;
        const T* from[F::per_item * side] = {};
        for (int i = 0; i < F::per_item * side && k + i < numbers; ++i) from[i] = next();
        const ptrdiff_t of_part = F::items(numbers), first = k / F::per_item;
        for (ptrdiff_t m = 0; m < count; m += side) {
            Vec<Item> square[F::parts][side], parts[F::parts];
            for (int i = 0; i < side; ++i) {
                Vec<T> rows[F::per_item];
                for (int j = 0; j < F::per_item; ++j) {
                    const T* at = from[F::per_item * i + j];
                    rows[j] = load_head(at + m, at ? count - m : 0);
                }
                F::across(rows, parts);
                for (int p = 0; p < F::parts; ++p) square[p][i] = parts[p];
            }
            for (int p = 0; p < F::parts; ++p) {
                transpose<Item>(square[p]);
                for (int i = 0; i < side && m + i < count; ++i)
                    store_head(at + ((m + i) * F::parts + p) * of_part + first, square[p][i], of_part - first);
            }
        }
    }
};

// The right side: `count` rows of `vectors` vectors, `row` apart, packed; and their sums added to `sum`.
template <class F>
void pack_right(typename F::Item* to, const typename F::Number* from, ptrdiff_t row, ptrdiff_t count, int vectors,
                typename F::Number* sum) {
    using T = typename F::Number;
    const ptrdiff_t depth = F::items(count), part = depth * vectors * width<T>;
    for (int v = 0; v < vectors; ++v) {
        Vec<T> total = load(sum + v * width<T>);
        for (ptrdiff_t k = 0; k < depth; ++k) {
            Vec<T> rows[F::per_item];
            Vec<typename F::Item> parts[F::parts];
            for (int i = 0; i < F::per_item; ++i) {
                const ptrdiff_t n = k * F::per_item + i;
                rows[i] = F::per_item == 1 || n < count ? load(from + n * row + v * width<T>) : Vec<T>{};
                total += rows[i];
            }
            F::across(rows, parts);
            for (int p = 0; p < F::parts; ++p) store(to + p * part + (k * vectors + v) * width<T>, parts[p]);
        }
        store(sum + v * width<T>, total);
    }
}

// to += left.T @ right for one packed panel of `vectors` vectors of columns; `fresh`: to holds nothing yet.
template <class F>
void add_outer(const Left<F>& left, const typename F::Item* right, int vectors, typename F::Number* to,
               ptrdiff_t to_row, bool fresh) {
    using T = typename F::Number;
    alignas(64) static const T zeros[gemm_vectors * width<T>] = {};
    left.each_tile([&](ptrdiff_t m, int rows, Side<typename F::Item> side) {
        T* first = to + m * to_row;
        const Ends<T> ends{{fresh ? zeros : first}, {fresh ? 0 : to_row}, {first}, to_row};
        run_tile<F, Left<F>::layout>(rows, 1, vectors, side, right, F::items(left.numbers), ends);
    });
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
