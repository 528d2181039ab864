// BPTT of one cell over a batch, the gradient of forward.h. With e[s] the gradient of state[s-1] as it enters step s:
//
//     grad = e[s+1] + (dy[s], for the first state),   da = cell'(grad, what was kept),   e[s] = carry + da Wh^T
//     dx[s] = da Wx^T,   dWx += x[s]^T da,   dWh += state[s-1]^T da,   dslots += da
//
//     x, flags, reset, Wx, Wh  in  as in the forward pass; flags also: cut
//     y, saved                 in  what the forward pass wrote there
//     dy      in     (T, N, H)        rows contiguous; null for zeros
//     dlast   in     (N, H) each      e after the last step; null for zeros
//     dx      out    (T, N, D)        contiguous, as all that follow
//     dstate  out    (N, H) each      e of the first step
//     dreset  out    (N, H) each      e of all steps that are reset; null if not needed
//     dWx, dWh, dslots  out  (D, gates*H), (H, matrices*H), (slots, H): see weight_gradients.h
//
// With `clip`, grad is clipped where a sequence is active: each element to [-clip, clip] or, with `clip_norm`, the
// sequence's gradient of all states to that Euclidean norm.
//
// dx, or the last three together, are null if not needed.
#pragma once

#include <cmath>

#include "loop.h"
#include "path.h"
#include "weight_gradients.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class F> class Backward : Pass<Cell, F> {
    using T = typename F::Element;
    using Item = typename F::Item;
    using Stages = typename Cell::backward;
    using Base = Pass<Cell, F>;
    using Base::memory, Base::run;

  public:
    explicit Backward(const BackwardCall& call)
        : Base(call), call(call), products(place(call), run, true, memory), input(call, run, memory),
          weights(call, run, memory), da_size(run.split.most_rows() * Cell::slots * run.Hp),
          da(memory.template take<T>((call.path.chunk + 1) * da_size * run.split.owners())) {
        this->place_room(std::max({products.room(), input.room(), weights.room()}));
    }

    Outcome execute(Ran& ran) {
        run_parts(run.split.parts, [this](int part) {
            products.pack_share(part);
            input.pack_share(part);
        });
        run_workers(run.split, call.stop, ran, [&](const Worker& worker) { return run_steps(worker); });
        if (this->outcome() == Outcome::done) weights.reduce();
        return this->outcome();
    }

  private:
    const BackwardCall& call;
    T* carry[max_states];  // (N, Hp): the gradient of an entering state that comes through no product
    Products<Cell, F, Stages> products;
    InputGradient<Cell, F> input;
    WeightGradients<Cell, F> weights;
    const ptrdiff_t da_size;
    T* const da;  // per owner: `da` of the step that follows a chunk, then of the chunk's steps by time

    // Buffers that the pass starts from.
    const Call& place(const BackwardCall& call) {
        T* saved = static_cast<T*>(const_cast<void*>(call.saved));
        run.place(saved, static_cast<T*>(const_cast<void*>(call.y)), call.y_time, call.y_row, true);
        run.pad_inputs(memory, call);
        for (int k = 0; k < Cell::states; ++k) {
            carry[k] = memory.template take<T>(run.N * run.Hp);
            pad_rows(carry[k], static_cast<const T*>(call.dlast[k]), run.N, run.H, run.Hp);
            if (call.dreset[k]) clear(static_cast<T*>(call.dreset[k]), run.N * run.H);
        }
        return call;
    }

    Ran run_steps(const Worker& worker) {
        Ran ran = worker.note(F::bf16_parts);
        Steps steps(*this, worker, ran);
        if (worker.leads()) weights.start(steps.owner);
        if (steps.count == 0) return ran;
        this->template loop<Stages>(steps, call, call.path.chunk, true);
        ran.packed = ran.steps && call.path.packed;
        return ran;
    }

    // The steps of one worker.
    struct Steps : Base::Share {
        using Share = typename Base::Share;
        using Share::at, Share::begin, Share::count, Share::room, Share::span, Share::worker;
        Backward& of;
        const int owner;
        const ptrdiff_t step_size;  // of `da`
        T *const edge, *const all;  // `da` of the step that follows the chunk, and of its own steps by time
        const T* after = nullptr;   // of the step after
        T* here = nullptr;          // of this one
        ptrdiff_t rows = 0;         // summed since the last full block

        Steps(Backward& of, const Worker& worker, Ran& ran)
            : Share(of, worker, ran), of(of), owner(of.run.split.owner(worker.first)),
              step_size(count * Cell::slots * of.run.Hp), edge(of.da + owner * (of.call.path.chunk + 1) * of.da_size),
              all(edge + of.da_size) {}

        void begin_chunk() {}
        void begin_step() {
            here = all + (at.t - span.low) * step_size;
            if (clipping()) settle();
        }
        void end_step() { after = here; }

        // Adds what a chunk contributes to dx and to the gradients of the parameters.
        __attribute__((noinline)) void end_chunk() {
            const Done<T> done{all, span.low, span.count, begin, count};
            worker.each([&](int part) {
                of.input.add(done, part, room);
                of.weights.add(done, rows == 0, part, room);
            });
            this->ran.chunk = std::max(this->ran.chunk, span.count);
            if (worker.leads()) copy_row(edge, after, step_size);
            worker.wait();
            rows += of.weights.rows(done);
            if (of.weights.full(rows, span.first == 0)) {
                of.weights.add_block(owner, worker);
                rows = 0;
            }
            after = edge;
        }

        // The gradient of the states before the first step.
        void finish() {
            if (of.run.T_ == 0) of.run.locate(at, 0, begin, count, this->entering);
            const auto write = [&](const Row<T>&, ptrdiff_t m, ptrdiff_t u, const Vec<T>* grad) {
                for (int k = 0; k < Cell::states; ++k)
                    store_head(static_cast<T*>(of.call.dstate[k]) + m * of.run.H + u, grad[k], of.run.H - u);
            };
            worker.each([&](int part) { through_products(typename Stages::first{}, part, flags_of(0), write); });
        }

        bool clipping() const { return of.call.clip > 0; }

        // A norm is of all units: with clipping, grad is whole, and in `carry`, before the step's own code begins.
        __attribute__((noinline)) void settle() {
            const auto keep = [&](const Row<T>& row, ptrdiff_t, ptrdiff_t, const Vec<T>* grad) {
                for (int k = 0; k < Cell::states; ++k) store(row.carry[k], grad[k]);
            };
            const uint8_t* later = flags_of(at.s + 1);
            if (after) {
                worker.each([&](int part) { through_products(typename Stages::first{}, part, later, keep); });
                worker.wait();
            }
            const int number = worker.number(), threads = worker.threads();
            for (ptrdiff_t m = count * number / threads; m < count * (number + 1) / threads; ++m) clip(begin + m);
            worker.wait();
        }

        // Adds dy to the gradient of sequence n, and clips it.
        void clip(ptrdiff_t n) const {
            const ptrdiff_t H = of.run.H, Hp = of.run.Hp;
            const uint8_t* flags = flags_of(at.s);
            if (flags && flags[n] & Flag::hold) return;
            T* const first = of.carry[0] + n * Hp;
            if (of.call.dy) {
                const T* dy = static_cast<const T*>(of.call.dy) + at.t * of.call.dy_time + n * of.call.dy_row;
                for (ptrdiff_t u = 0; u < H; u += width<T>)
                    store(first + u, load(first + u) + load_head(dy + u, H - u));
            }
            const T bound = T(of.call.clip);
            const T factor = of.call.clip_norm ? shrinking(n, bound) : T(1);
            for (int k = 0; k < Cell::states; ++k)
                for (ptrdiff_t u = 0; u < H; u += width<T>) {
                    T* to = of.carry[k] + n * Hp + u;
                    Vec<T> grad = load(to) * factor;
                    if (!of.call.clip_norm) {
                        grad = less(grad, splat(-bound), splat(-bound), grad);
                        grad = less(splat(bound), grad, splat(bound), grad);
                    }
                    store(to, grad);
                }
        }

        // By what a sequence's gradient is multiplied, so that its norm is at most `bound`: 1 if it is, or if it is not
        // finite. Squares are those of shares of the largest element, which do not overflow.
        T shrinking(ptrdiff_t n, T bound) const {
            const ptrdiff_t H = of.run.H, Hp = of.run.Hp;
            Vec<T> most{}, squares{};
            T largest = 0, total = 0;
            for (int k = 0; k < Cell::states; ++k)
                for (ptrdiff_t u = 0; u < H; u += width<T>) {
                    const Vec<T> size = magnitude(load_head(of.carry[k] + n * Hp + u, H - u));
                    most = less(most, size, size, most);
                }
            for (int i = 0; i < width<T>; ++i) largest = std::max(largest, T(most[i]));
            if (!(largest > 0)) return 1;
            for (int k = 0; k < Cell::states; ++k)
                for (ptrdiff_t u = 0; u < H; u += width<T>) {
                    const Vec<T> part = load_head(of.carry[k] + n * Hp + u, H - u) / largest;
                    squares += part * part;
                }
            for (int i = 0; i < width<T>; ++i) total += squares[i];
            const T norm = std::sqrt(total), most_of_it = bound / largest;
            return norm > most_of_it ? most_of_it / norm : T(1);
        }

        template <class S> __attribute__((noinline)) void step(S stage, int i, int part) {
            const ptrdiff_t H = of.run.H, dy_row = of.call.dy_row;
            const bool whole = clipping();
            const bool own_dy = of.call.dy && !whole;
            const T* dy = own_dy ? static_cast<const T*>(of.call.dy) + at.t * of.call.dy_time : nullptr;
            const uint8_t* later = whole ? nullptr : flags_of(at.s + 1);
            const T* source = i ? here : whole ? nullptr : after;
            T* const da = here - begin * Cell::slots * of.run.Hp;
            T* carry[Cell::states];
            for (int k = 0; k < Cell::states; ++k) carry[k] = of.carry[k];
            each_sums(stage, i, part, source, [&](Row<T>& row, ptrdiff_t m, ptrdiff_t u, int flags) {
                Vec<T> grad[max_states] = {};
                for (int k = 0; k < Cell::states; ++k) row.carry[k] = carry[k] + m * row.Hp + u;
                row.da = da + m * Cell::slots * row.Hp + u;
                if (i == 0) arriving(row, later ? later[m] : 0, m, u, grad);
                if (flags & Flag::hold) {
                    if (i == 0) pass_through(row, grad);
                    return;
                }
                if (i == 0 && dy) grad[0] += load_head(dy + m * dy_row + u, H - u);
                S::template run<true, T>(row, grad);
            });
        }

        // Calls f(row, sequence, unit, grad) with the gradient of the states that enter the step whose flags are
        // `later`.
        template <class S, class G>
        __attribute__((noinline)) void through_products(S stage, int part, const uint8_t* later, G f) {
            each_sums(stage, 0, part, after, [&](Row<T>& row, ptrdiff_t m, ptrdiff_t u, int) {
                Vec<T> grad[max_states];
                for (int k = 0; k < Cell::states; ++k) row.carry[k] = of.carry[k] + m * row.Hp + u;
                arriving(row, later ? later[m] : 0, m, u, grad);
                f(row, m, u, grad);
            });
        }

        // Flags of step `s`; null if all are 0 or there is no such step.
        const uint8_t* flags_of(ptrdiff_t s) const {
            return of.run.flags && s < of.run.T_ ? of.run.flags + of.run.time_of(s) * of.run.N : nullptr;
        }

        // Calls f for every row of a stage's finished sums; `da` is null at the last step.
        template <class S, class G> FASTRNN_INLINED void each_sums(S stage, int i, int part, const T* da, G f) {
            StageSums<F> sums;
            for (int a = 0; a < S::sums; ++a) sums.start(a, of.run.unit_row(-1), 0);
            for (int k = 0; i == 0 && k < Cell::states; ++k)
                if (Cell::grad_sum[k] >= 0) sums.start(Cell::grad_sum[k], of.carry[k] + begin * of.run.Hp, of.run.Hp);
            if (da) of.products.take_left(stage, sums, at, da, begin, count, room);
            of.products.each_sums(stage, i, sums, at, of.products.units(i, part), begin, count, this->scratch, room, f);
        }

        // Gradients that reach the states after a step from later steps; `later` are the flags of the next one. If that
        // step held the state, its `da` is zero, but its products are not used: weights may be infinite.
        FASTRNN_INLINED void arriving(const Row<T>& row, int later, ptrdiff_t m, ptrdiff_t u, Vec<T>* grad) const {
            for (int k = 0; k < Cell::states; ++k) {
                const int sum = Cell::grad_sum[k];
                grad[k] = load(sum >= 0 && !(later & Flag::hold) ? row.acc[sum] : row.carry[k]);
                if (!(later & (Flag::reset | Flag::cut))) continue;
                if (later & Flag::reset && of.call.dreset[k]) {
                    T* to = static_cast<T*>(of.call.dreset[k]) + m * of.run.H + u;
                    store_head(to, load_head(to, of.run.H - u) + grad[k], of.run.H - u);
                }
                grad[k] = Vec<T>{};
            }
        }

        // A step that holds the state passes the gradient through unchanged.
        void pass_through(const Row<T>& row, const Vec<T>* grad) const {
            for (int k = 0; k < Cell::states; ++k) store(row.carry[k], grad[k]);
            for (int m = 0; m < Cell::slots; ++m) store(row.da + m * row.Hp, Vec<T>{});
        }
    };
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
