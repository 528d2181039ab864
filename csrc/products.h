// The products of the stages of one direction: the matrices, packed or in place, and the sums of a step. However they
// are computed, the sums of a stage come in one form: an initial value for each, and the products still to be added
// tile by tile.
//
//     forward:   sum = bias + x[t] Wx + h Wh,           matrices (depth, H)
//     backward:  sum = carry, or zeros, + da Wh^T,      the same transposed
#pragma once

#include <algorithm>

#include "merged.h"
#include "project_ahead.h"
#include "thread_split.h"
#include "unpacked.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// The sums of a stage for the sequences of one worker, counted from its first one.
template <class F> struct StageSums {
    using T = typename F::Element;
    Rows<T> begin[max_stage_sums];  // rows of (Hp)
    Rows<typename F::Item> left[max_products];
    int first = 0, last = 0;    // products to be added
    Ahead<T>* ahead = nullptr;  // projection to run beside them, or null

    void start(int sum, const T* at, ptrdiff_t row) { begin[sum] = {at, row}; }
};

template <class Cell, class F, class Stages> class Products {
    using T = typename F::Element;
    using Item = typename F::Item;

  public:
    // `at_each_step`: whether the products with x are among those of a step.
    Products(const Call& call, const CallState<Cell, T>& run, bool at_each_step, Workspace& memory)
        : call(call), run(run), packed(call.path.packed), at_each_step(at_each_step) {
        const ThreadSplit& split = run.split;
        const int most = call.path.input == Input::ahead ? ahead_columns : most_block_sums;
        Stages::each([&](auto stage, int i) {
            using S = decltype(stage);
            if constexpr (F::per_item == 1)
                if (call.path.merged) place_merged(stage, i, memory);
            const int shares = split.by_units ? split.parts : 1;
            vectors[i] = block_vectors<S>(split.most_rows(), columns(i) / width<T>, shares, most);
            for (int p = 0; p < S::products; ++p) place_product(i, p, S::product[p], memory);
        });
    }

    void pack_share(int part) {
        Stages::each([&](auto stage, int i) {
            using S = decltype(stage);
            for (int p = 0; packed && p < S::products; ++p) {
                const Product& product = S::product[p];
                if (!here(product)) continue;
                const Range range = share<T>(columns(i), vectors[i], run.split.parts, part);
                pack(panel[i][p], product.sources, depth(product), run.Hp, run.H, range, vectors[i],
                     [&](int source, int sum) { return matrix(product, source, sum); });
            }
        });
    }

    Range units(int i, int part) const { return run.split.template units<T>(columns(i), vectors[i], part); }
    int block(int i) const { return vectors[i]; }

    // Block `gate` of Wx.
    Matrix<T> input(int gate) const {
        return {static_cast<const T*>(call.Wx) + gate * run.H * call.Wx_col, call.Wx_row, call.Wx_col};
    }
    // The blocks of Wx of a stage, read in place.
    const InPlace<T>& input_in_place(int i) const { return in_rows[i][0]; }

    // Scratch items that a stage needs: for its left operands, or for its sums.
    ptrdiff_t room() const {
        const ptrdiff_t rows = run.split.most_rows();
        if (!packed) return rows * sum_row();
        ptrdiff_t most = 0;
        Stages::each([&](auto stage, int) {
            using S = decltype(stage);
            ptrdiff_t size = 0;
            for (int p = 0; p < S::products; ++p)
                if (here(S::product[p])) size += F::left_size(rows, elements(S::product[p]));
            most = std::max(most, size);
        });
        return most;
    }

    // Sets the left operands of the products of a stage, for `count` sequences from `begin` on; `da` (count, slots,
    // Hp).
    template <class S>
    void take_left(S, StageSums<F>& sums, const At<T>& at, const T* da, ptrdiff_t begin, ptrdiff_t count,
                   Item* room) const {
        sums.first = gates_of<S>() && !at_each_step ? 1 : 0;
        sums.last = S::products;
        each_product<S>([&](auto p) {
            if (p < sums.first) return;
            constexpr const Product& product = S::product[p];
            const Rows<T> rows = left(product, at, da, begin);
            sums.left[p] = F::rows(rows.at, rows.row, count, elements(product), room);
            room += F::left_size(count, elements(product));
        });
    }

    // Calls f(row, n, u, flags) as `each_row` does with the finished sums of a range of units of one stage, block by
    // block.
    template <class S, class G>
    FASTRNN_INLINED void each_sums(S stage, int i, StageSums<F>& sums, const At<T>& at, Range units, ptrdiff_t begin,
                                   ptrdiff_t count, T* scratch, Item* room, G f) const {
        const bool backwards = at.s & 1;
        if constexpr (F::per_item == 1)
            if (!packed) add_in_place(stage, i, sums, units, count, backwards, room);
        StepTile<T> tile;
        tile.scratch = scratch;
        each_block<T>(units, vectors[i], backwards, [&](ptrdiff_t u, int v) {
            each_tile(count, max_rows(widest_sums<S>() * vectors[i]), [&](ptrdiff_t n, int rows) {
                const TileAt here{u, v, n, rows};
                fill(stage, i, sums, here, tile);
                each_row<Cell, S>(run, at, tile, here, begin, f);
            });
        });
        if constexpr (can_project_ahead<F> && gates_of<typename Stages::first>() > 0)
            if (sums.ahead) sums.ahead->run_due();
        if constexpr (F::per_item == 1 && gates_of<typename Stages::first>() > 0)
            if (merged[i].vectors)
                each_tile(count, max_rows(merged[i].vectors), [&](ptrdiff_t n, int rows) {
                    const TileAt here{units.last, 1, n, rows};
                    merged[i].sums(stage, sums.left, here, tile);
                    each_row<Cell, S>(run, at, tile, here, begin, f);
                });
    }

    bool merges() const {
        bool any = false;
        for (const Merged<F>& one : merged) any |= one.vectors > 0;
        return any;
    }

  private:
    const Call& call;
    const CallState<Cell, T>& run;
    const bool packed, at_each_step;
    int vectors[Stages::count];
    Merged<F> merged[Stages::count];
    Panel<F> panel[Stages::count][max_products];
    InPlace<T> in_rows[Stages::count][max_products];        // weights read in place
    Transposed<T> in_columns[Stages::count][max_products];  // the same in BPTT

    bool here(const Product& product) const { return at_each_step || product.kind != Kind::x; }
    // Elements of one source vector, and of all sources with the padding between them.
    ptrdiff_t depth(const Product& product) const { return product.kind == Kind::x ? run.D : run.H; }
    ptrdiff_t elements(const Product& product) const { return (product.sources - 1) * run.Hp + depth(product); }
    // Columns that are computed in vectors of their own, not merged.
    ptrdiff_t columns(int i) const { return merged[i].vectors ? run.H - run.H % width<T> : run.Hp; }
    // Elements of the sums of one sequence, and one vector that may be read beyond them.
    ptrdiff_t sum_row() const { return padded<T>(max_stage_sums * run.H) + width<T>; }

    Matrix<T> matrix(const Product& product, int source, int sum) const {
        const int number = product.matrix[source * product.sums + sum];
        if (product.kind == Kind::x) return input(number);
        const T* at = static_cast<const T*>(call.Wh) + number * run.H * call.Wh_col;
        if (product.kind == Kind::da) return {at, call.Wh_col, call.Wh_row};
        return {at, call.Wh_row, call.Wh_col};
    }

    void place_product(int i, int p, const Product& product, Workspace& memory) {
        if (packed) {
            if (!here(product)) return;
            panel[i][p] = place<F>(memory, product.sources, product.sums, depth(product), run.Hp, columns(i));
        } else if (product.kind == Kind::da) {
            in_columns[i][p] = {static_cast<const T*>(call.Wh), call.Wh_row, run.H, product.sources, run.Hp, {}};
            for (int s = 0; s < product.sources; ++s) in_columns[i][p].right[s] = product.matrix[s] * run.H;
        } else {
            in_rows[i][p] = in_place<T>(product.sums, depth(product), [&](int s) { return matrix(product, 0, s); });
        }
    }

    template <class S> void place_merged(S stage, int i, Workspace& memory) {
        merged[i].place(
            stage, memory, run.H, [&](int p) { return depth(S::product[p]); },
            [&](int p, int s) { return matrix(S::product[p], 0, s); },
            [&](int a) { return run.unit_row(S::sum[a].unit); });
    }

    Rows<T> left(const Product& product, const At<T>& at, const T* da, ptrdiff_t begin) const {
        switch (product.kind) {
            case Kind::x: return at.x.from(begin);
            case Kind::prev: return at.prev[product.index].from(begin);
            case Kind::keep: return Rows<T>{at.keep + product.index * run.Hp, Cell::keeps * run.Hp}.from(begin);
            default: return {da + product.index * run.Hp, Cell::slots * run.Hp};
        }
    }

    // Adds all products of a stage with the weights in place, in `room`: afterwards they are the initial values of the
    // sums.
    template <class S>
    void add_in_place(S, int i, StageSums<F>& sums, Range units, ptrdiff_t count, bool backwards, T* room) const {
        if (units.last > run.H) units.last = run.H;
        const SumRows<T> to{room, sum_row(), run.H};
        for (int a = 0; a < S::sums; ++a) {
            T* first = to.at + a * to.sum;
            for (ptrdiff_t n = 0; n < count; ++n)
                copy_row(first + n * to.row + units.first, sums.begin[a].from(n).at + units.first,
                         units.last - units.first);
            sums.begin[a] = {first, to.row};
        }
        each_product<S>([&](auto p) {
            constexpr const Product& product = S::product[p];
            if (p < sums.first || p >= sums.last) return;
            if constexpr (product.kind == Kind::da)
                multiply_transposed(to.at + product.sum[0] * to.sum, to.row, sums.left[p], count, units,
                                    in_columns[i][p]);
            else
                multiply_in_place(in_rows[i][p], product.sum, sums.left[p], count, units, run.H, backwards, to);
        });
        sums.last = 0;
    }

    // The sums of one tile: their initial values and the products that are still to be added.
    template <class S>
    FASTRNN_INLINED void fill(S, int i, const StageSums<F>& sums, TileAt here, StepTile<T>& tile) const {
        for (int a = 0; a < S::sums; ++a) {
            tile.at[a] = sums.begin[a].from(here.n).at + here.u;
            tile.row[a] = sums.begin[a].row;
        }
        each_product<S>([&](auto p) {
            constexpr const Product& product = S::product[p];
            if (p < sums.first || p >= sums.last) return;
            if constexpr (can_project_ahead<F> && gates_of<typename Stages::first>() > 0)
                if (sums.ahead) return tile.add(panel[i][p], product, here, sums.left[p], Beside<T>{sums.ahead});
            tile.add(panel[i][p], product, here, sums.left[p], Alone<F>{});
        });
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
