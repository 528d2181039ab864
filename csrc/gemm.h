// Products over many steps at once: the projection of the input, its gradient, and the gradients of the weights.
#pragma once

#include "packed.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// GEMM over many rows: panels of B of two vectors of columns, which with 14 rows of sums fill the registers.
constexpr int gemm_vectors = 2;
constexpr int gemm_rows = max_rows(gemm_vectors);
// Rows with two strides, of steps and of sequences: row n of step s begins at `at + s * step + n * row`.
template <class T> struct StepRows {
    T* at;
    ptrdiff_t step, row;
};

// The left operand of a product over many steps: A (steps, count, depth), rows contiguous, itself, or split into bf16
// items in `memory`.
template <class F>
StepRows<const typename F::Item> left_operand(StepRows<const typename F::Element> A, ptrdiff_t steps, ptrdiff_t count,
                                              ptrdiff_t depth, typename F::Item* memory) {
    if constexpr (F::per_item == 1) return A;
    const ptrdiff_t size = F::left_size(1, depth);
    for (ptrdiff_t s = 0; s < steps; ++s) F::rows(A.at + s * A.step, A.row, count, depth, memory + s * count * size);
    return {memory, count * size, size};
}

// out = begin + A @ B.
//
//     A      in   (steps, count, depth) items, rows contiguous
//     B      in   (depth, columns): packed(u, v) returns columns [u, u + v vectors) as [term][depth][v]
//     begin  in   (columns), added to every row; null for zeros
//     out    out  (steps, count, columns), rows contiguous; nothing beyond the columns is written
template <class F, class G>
void project(StepRows<const typename F::Item> A, ptrdiff_t depth, G packed, const typename F::Element* begin,
             StepRows<typename F::Element> out, ptrdiff_t steps, ptrdiff_t count, ptrdiff_t columns) {
    using T = typename F::Element;
    if (A.step == count * A.row && out.step == count * out.row) {
        count *= steps;
        steps = 1;
    }
    alignas(64) static const T zeros[gemm_vectors * width<T>] = {};
    const ptrdiff_t padded = (columns + width<T> - 1) / width<T> * width<T>;
    each_block<T>(Range{0, padded}, gemm_vectors, false, [&](ptrdiff_t u, int v) {
        const ptrdiff_t inside = columns - u, block = v * width<T>;
        const typename F::Item* B = packed(u, v);
        alignas(64) T edge[gemm_rows * gemm_vectors * width<T>];
        Ends<T> ends{{begin ? begin + u : zeros}, {0}, {nullptr}, out.row};
        for (ptrdiff_t s = 0; s < steps; ++s) {
            each_tile(count, gemm_rows, [&](ptrdiff_t n, int rows) {
                T* to = out.at + s * out.step + n * out.row + u;
                ends.out[0] = inside < block ? edge : to;
                ends.out_row = inside < block ? block : out.row;
                run_tile<F, Layout::rows>(rows, 1, v, {A.at + s * A.step + n * A.row, A.row}, B, depth, ends);
                if (inside < block)
                    for (int r = 0; r < rows; ++r)
                        for (ptrdiff_t j = 0; j < inside; ++j) to[r * out.row + j] = edge[r * block + j];
            });
        }
    });
}

// The left operand of a weight gradient, x^T with x (depth, count): packed as tiles of [depth][R] where elements are
// not split; else every column of x becomes a row of items.
template <class F> struct Left {
    using T = typename F::Element;
    using Item = typename F::Item;
    static constexpr Layout layout = F::per_item == 1 ? Layout::packed : Layout::rows;
    Item* at;
    ptrdiff_t count, depth;

    static ptrdiff_t size(ptrdiff_t count, ptrdiff_t depth) { return F::parts * F::items(depth) * count; }

    // Calls f(first column, columns, packed tile) for each tile.
    template <class G> void each_tile(G f) const {
        const ptrdiff_t of_column = size(1, depth);
        fastrnn::FASTRNN_VARIANT::each_tile(
            count, gemm_rows, [&](ptrdiff_t m, int rows) { f(m, rows, Rows<Item>{at + m * of_column, of_column}); });
    }

    // Packs x; every call of next() returns the address of the next row of x.
    template <class G> void fill(G next) const {
        if constexpr (F::per_item == 1)
            for (ptrdiff_t k = 0; k < depth; ++k) {
                const T* from = next();
                each_tile([&](ptrdiff_t m, int rows, Rows<Item> side) {
                    copy_row(const_cast<T*>(side.at) + k * rows, from + m, rows);
                });
            }
        else
            for (ptrdiff_t k = 0; k < depth; k += F::per_item * width<Item>) fill_square(next, k);
    }

  private:
    // The rows of x from k on that fill one vector of items of every column.
    template <class G> void fill_square(G& next, ptrdiff_t k) const {
        constexpr int side = width<Item>;
        const T* from[F::per_item * side] = {};
        for (int i = 0; i < F::per_item * side && k + i < depth; ++i) from[i] = next();
        const ptrdiff_t of_part = F::items(depth), first = k / F::per_item;
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

// The right operand of a weight gradient and the sum over its rows: packs `from` (count, `vectors` vectors), rows `row`
// apart, as [term][items][vectors], and adds its rows to `sum` (`vectors` vectors).
template <class F>
void pack_right(typename F::Item* to, const typename F::Element* from, ptrdiff_t row, ptrdiff_t count, int vectors,
                typename F::Element* sum) {
    using T = typename F::Element;
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

// to = left @ right, added to `to` unless `fresh`.
//
//     left   in     (count, depth), packed
//     right  in     (depth, `vectors` vectors), packed by pack_right
//     to     inout  (count, `vectors` vectors), rows `to_row` apart
template <class F>
void add_outer(const Left<F>& left, const typename F::Item* right, int vectors, typename F::Element* to,
               ptrdiff_t to_row, bool fresh) {
    using T = typename F::Element;
    alignas(64) static const T zeros[gemm_vectors * width<T>] = {};
    left.each_tile([&](ptrdiff_t m, int rows, Rows<typename F::Item> side) {
        T* first = to + m * to_row;
        const Ends<T> ends{{fresh ? zeros : first}, {fresh ? 0 : to_row}, {first}, to_row};
        run_tile<F, Left<F>::layout>(rows, 1, vectors, side, right, F::items(left.depth), ends);
    });
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
