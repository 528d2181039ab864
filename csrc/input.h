// Products of the input over many steps at once: its projection, and the gradient that belongs to it.
//
//     forward:   projected[s] = bias + x[s] Wx   for the steps of a chunk, or of the next one (project_ahead.h)
//     backward:  dx[s] = da[s] Wx^T              for the steps of a chunk
//
//     x          in     (T, N, D)                rows contiguous
//     Wx         in     (D, gates*H)             any strides
//     projected  out    [s in chunk][n][row]     row: (gates, Hp) and one more vector
//     da         in     [t in chunk][n][slots][Hp]
//     dx         out    (T, N, D)                contiguous; zeros where a state is held; null if not needed
#pragma once

#include "gemm.h"
#include "products.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class F> class Projection {
    using T = typename F::Element;
    using Item = typename F::Item;

  public:
    using Stages = typename Cell::forward;

    Projection(const Call& call, const CallState<Cell, T>& run, const Products<Cell, F, Stages>& products,
               Workspace& memory)
        : run(run), products(products), packed(call.path.packed), ahead(call.path.input == Input::ahead),
          chunk(call.path.chunk) {
        if (call.path.input == Input::step) return;
        part_size = (ahead ? 2 : 1) * chunk * run.split.most_rows() * row();
        projected = memory.take<T>(part_size * run.split.owners());
        if (ahead) next.prepare(memory, run, [&](int i, int part) { return products.units(i, part); });
    }

    void pack_share(int part) {
        if (!ahead) return;
        each_gate<Stages>([&](int i, Sum sum) {
            const Range range = share<T>(run.Hp, products.block(i), run.split.parts, part);
            next.pack_gate(run, sum.gate, range, products.input(sum.gate));
        });
    }

    // Scratch items that a part needs for a chunk: the left operand, and a packed block of Wx.
    ptrdiff_t room() const {
        if (ahead || !packed) return 0;
        const ptrdiff_t block = F::parts * F::items(run.D) * gemm_vectors * width<T>;
        return F::left_size(run.split.most_rows() * chunk, run.D) + block;
    }

    // Projects the steps of a chunk for `count` sequences from `begin` on.
    void start(Span span, ptrdiff_t begin, ptrdiff_t count, int part, Item* room, Ran& ran) const {
        ran.input = ahead ? Input::ahead : Input::chunk;
        ran.chunk = ahead ? chunk : std::max(ran.chunk, span.count);
        if (!ahead) return project_chunk(span, begin, count, part, room);
        next.start_chunk(run, span.first, begin, part, [&](ptrdiff_t s) { return at(s, span, 1, part); }, row());
    }

    // The projections at a step of the chunk: `count` rows, `row()` apart.
    T* at(ptrdiff_t s, Span span, ptrdiff_t count, int part) const {
        const ptrdiff_t number = ahead ? s % (2 * chunk) : run.time_of(s) - span.low;
        return projected + run.split.owner(part) * part_size + number * count * row();
    }
    // Leading dimension of the projections; one vector more than needed, to avoid 4 KiB aliasing between rows.
    ptrdiff_t row() const { return Cell::gates * run.Hp + width<T>; }

    // The projection to be run beside the products of a stage, or null.
    Ahead<T>* beside(int part, ptrdiff_t s, int stage) const {
        if (!ahead) return nullptr;
        return next.grant(part, s % chunk * Stages::count + stage, chunk * Stages::count);
    }

  private:
    const CallState<Cell, T>& run;
    const Products<Cell, F, Stages>& products;
    const bool packed, ahead;
    const ptrdiff_t chunk;
    ptrdiff_t part_size = 0;
    T* projected = nullptr;
    InputAhead<Cell, F> next;

    // Packs Wx block by block into memory that stays in cache: every block meets all the rows of the chunk.
    void project_chunk(Span span, ptrdiff_t begin, ptrdiff_t count, int part, Item* room) const {
        ptrdiff_t steps = span.count;
        T* to = projected + run.split.owner(part) * part_size;
        StepRows<const T> x{run.x.from(begin).at + span.low * run.x_time, run.x_time, run.x.row};
        if (count == 1) {  // the steps are the rows of one product
            x = {x.at, 0, run.x_time};
            std::swap(steps, count);
        }
        if constexpr (F::per_item == 1)
            if (!packed) return read_in_place(x, steps, count, part, {to, row(), run.Hp});
        const ptrdiff_t depth = F::items(run.D);
        Item* const block = room + F::left_size(run.split.most_rows() * chunk, run.D);
        const StepRows<const Item> left = left_operand<F>(x, steps, count, run.D, room);
        each_gate<Stages>([&](int i, Sum sum) {
            const Range range = products.units(i, part);
            const Matrix<T> B = products.input(sum.gate);
            const auto pack_one = [&](ptrdiff_t u, int v) {
                const ptrdiff_t columns = v * width<T>;
                pack_columns<F>(block, depth * columns, &B, 1, run.D, depth, run.H, range.first + u, columns);
                return block;
            };
            const T* bias = run.unit_row(sum.unit) + range.first;
            T* first = to + sum.gate * run.Hp + range.first;
            const StepRows<T> out{first, count * row(), row()};
            project<F>(left, depth, pack_one, bias, out, steps, count, range.last - range.first);
        });
    }

    void read_in_place(StepRows<const T> x, ptrdiff_t steps, ptrdiff_t count, int part, SumRows<T> sums) const {
        if (x.step == count * x.row) {
            count *= steps;
            steps = 1;
        }
        Stages::each([&](auto stage, int i) {
            using S = decltype(stage);
            constexpr int gates = gates_of<S>();
            if constexpr (gates > 0) {
                Range range = products.units(i, part);
                if (range.last > run.H) range.last = run.H;
                for (int a = 0; a < gates; ++a) {
                    T* first = sums.at + S::sum[a].gate * sums.sum + range.first;
                    const T* bias = run.unit_row(S::sum[a].unit) + range.first;
                    for (ptrdiff_t r = 0; r < steps * count; ++r)
                        copy_row(first + r * sums.row, bias, range.last - range.first);
                }
                for (ptrdiff_t s = 0; s < steps; ++s) {
                    const SumRows<T> here{sums.at + s * count * sums.row, sums.row, sums.sum};
                    const Rows<T> left{x.at + s * x.step, x.row};
                    multiply_in_place(products.input_in_place(i), S::product[0].matrix, left, count, range, run.H,
                                      false, here);
                }
            }
        });
    }
};

// Finished steps of BPTT: da[k][n] of time low + k and sequence begin + n.
template <class T> struct Done {
    const T* da;
    ptrdiff_t low, steps, begin, n;
};

template <class Cell, class F> class InputGradient {
    using T = typename F::Element;
    using Item = typename F::Item;

  public:
    InputGradient(const BackwardCall& call, const CallState<Cell, T>& run, Workspace& memory)
        : call(call), run(run), packed(call.path.packed && call.dx) {
        if (packed) panel = place<F>(memory, Cell::gates, 1, run.H, run.Hp, padded<T>(run.D));
    }

    void pack_share(int part) {
        if (!packed) return;
        const T* Wx = static_cast<const T*>(call.Wx);
        const Range range = share<T>(padded<T>(run.D), gemm_vectors, run.split.parts, part);
        pack(panel, Cell::gates, run.H, run.Hp, run.D, range, gemm_vectors,
             [&](int g, int) { return Matrix<T>{Wx + g * run.H * call.Wx_col, call.Wx_col, call.Wx_row}; });
    }

    // Scratch items that a part needs for a chunk.
    ptrdiff_t room() const {
        return packed ? F::left_size(call.path.chunk * run.split.most_rows(), panel.elements) : 0;
    }

    // dx of the steps of a chunk; where parts are shares of the units, each does some of the steps.
    void add(const Done<T>& done, int part, Item* room) const {
        if (!call.dx) return;
        const int parts = run.split.by_units ? run.split.parts : 1, number = run.split.by_units ? part : 0;
        const ptrdiff_t first = done.steps * number / parts, last = done.steps * (number + 1) / parts;
        const ptrdiff_t n = done.n, row = Cell::slots * run.Hp, D = run.D;
        T* dx = static_cast<T*>(call.dx) + ((done.low + first) * run.N + done.begin) * D;
        if constexpr (F::per_item == 1)
            if (!packed) {
                read_in_place(done, first, last, dx);
                return clear_held(done, first, last, dx);
            }
        const auto block = [&](ptrdiff_t u, int v) { return panel.block(u, v, 0); };
        const StepRows<const T> da{done.da + first * n * row, n * row, row};
        const StepRows<const Item> left = left_operand<F>(da, last - first, n, panel.elements, room);
        project<F>(left, panel.depth, block, nullptr, {dx, run.N * D, D}, last - first, n, D);
        clear_held(done, first, last, dx);
    }

  private:
    const BackwardCall& call;
    const CallState<Cell, T>& run;
    const bool packed;
    Panel<F> panel{};

    void read_in_place(const Done<T>& done, ptrdiff_t first, ptrdiff_t last, T* dx) const {
        const ptrdiff_t n = done.n, row = Cell::slots * run.Hp, D = run.D;
        Transposed<T> Wx{static_cast<const T*>(call.Wx), call.Wx_row, run.H, Cell::gates, run.Hp, {}};
        for (int g = 0; g < Cell::gates; ++g) Wx.right[g] = g * run.H;
        // All steps at once if they are contiguous.
        const ptrdiff_t steps = n == run.N ? last - first : 1;
        for (ptrdiff_t t = first; t < last; t += steps, dx += run.N * D) {
            clear(dx, steps * n * D);
            multiply_transposed(dx, D, Rows<T>{done.da + t * n * row, row}, steps * n, Range{0, D}, Wx);
        }
    }

    // Where the state is held dx is zero, even if a product of zeros with infinite weights is not.
    void clear_held(const Done<T>& done, ptrdiff_t first, ptrdiff_t last, T* dx) const {
        if (!(run.seen & Flag::hold)) return;
        for (ptrdiff_t t = first; t < last; ++t, dx += run.N * run.D)
            for (ptrdiff_t n = 0; n < done.n; ++n)
                if (run.flag(done.low + t, done.begin + n) & Flag::hold) clear(dx + n * run.D, run.D);
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
