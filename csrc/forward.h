// The forward pass of one cell over a batch:
//
//     state[s] = cell(x[s] Wx + bx, state[s-1] Wh + bh),   y[s] = state[s][0]
//
//     x       in     (T, N, D)          any strides of time and row, rows contiguous
//     flags   in     (T, N)             of a step: hold, reset; or null
//     state   in     (N, H) each        before the first step; null for zeros
//     reset   in     (N, H) each        before a step that is reset; null for zeros
//     Wx, Wh  in     (D, gates*H), (H, matrices*H), any strides
//     y       out    (T, N, H)          rows contiguous; zeros where the state is held
//     last    out    (N, H) each        after the last step
//     saved   inout  [first states (N, Hp)][states (T, N, Hp)][keep (T, N, keeps, Hp)], what BPTT needs: see CallState.
//                    The first state is in y instead where that holds the same. Where nothing is kept, two steps of the
//                    states and one of `keep`.
#pragma once

#include "input.h"
#include "loop.h"
#include "path.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class F> class Forward : Pass<Cell, F> {
    using T = typename F::Element;
    using Item = typename F::Item;
    using Stages = typename Cell::forward;
    using Base = Pass<Cell, F>;
    using Base::memory, Base::run;

  public:
    explicit Forward(const ForwardCall& call)
        : Base(call), call(call), at_each_step(call.path.input == Input::step), keep(place(call)),
          products(call, run, at_each_step, memory), projection(call, run, products, memory) {
        this->place_room(std::max(at_each_step ? 0 : projection.room(), products.room()));
    }

    Outcome execute(Ran& ran) {
        if (run.N > 0) {
            run_parts(run.split.parts, [this](int part) {
                products.pack_share(part);
                projection.pack_share(part);
            });
            run_workers(run.split, call.stop, ran, [&](const Worker& worker) { return run_steps(worker); });
        }
        if (this->outcome() == Outcome::done)
            for (int k = 0; k < Cell::states; ++k) copy_last(k);
        return this->outcome();
    }

  private:
    const ForwardCall& call;
    const bool at_each_step;  // the input projection is one of the products of a step
    const bool keep;
    Products<Cell, F, Stages> products;
    Projection<Cell, F> projection;

    // Buffers that the pass starts from.
    bool place(const ForwardCall& call) {
        T* saved = call.keep ? static_cast<T*>(call.saved) : memory.template take<T>(run.working_size());
        run.place(saved, static_cast<T*>(call.y), call.y_time, call.y_row, call.keep);
        run.pad_inputs(memory, call);
        for (int k = 0; k < Cell::states; ++k)
            pad_rows(run.state[k].first, static_cast<const T*>(call.state[k]), run.N, run.H, run.Hp);
        return call.keep;
    }

    void copy_last(int k) const {
        const Rows<T> from = run.prev(k, run.T_);
        T* to = static_cast<T*>(call.last[k]);
        for (ptrdiff_t n = 0; n < run.N; ++n) copy_row(to + n * run.H, from.from(n).at, run.H);
    }

    Ran run_steps(const Worker& worker) {
        Ran ran = worker.note(F::bf16_parts);
        Steps steps(*this, worker, ran);
        this->template loop<Stages>(steps, call, at_each_step ? wave_steps : call.path.chunk, false);
        if (this->stopped && call.above) call.above->reached(run.T_);
        if (!ran.steps) return ran;
        ran.packed = call.path.packed;
        ran.merged = products.merges();
        if (at_each_step) {
            ran.input = Input::step;
            ran.chunk = 1;
        }
        return ran;
    }

    // The steps of one worker.
    struct Steps : Base::Share {
        using Share = typename Base::Share;
        using Share::at, Share::begin, Share::count, Share::room, Share::span, Share::worker;
        Forward& of;

        Steps(Forward& of, const Worker& worker, Ran& ran) : Share(of, worker, ran), of(of) {}

        void begin_chunk() {
            if (of.call.below) {
                const ptrdiff_t ahead = of.call.path.input == Input::ahead ? of.call.path.chunk : 0;
                of.call.below->wait_for(std::min(span.first + span.count + ahead, of.run.T_), of.call.stop);
            }
            if (of.at_each_step) return;
            worker.each([&](int part) { of.projection.start(span, begin, count, part, room, this->ran); });
        }
        void begin_step() {}
        template <class S> void step(S stage, int i, int part) {
            if (of.keep)
                run_stage<true>(stage, i, part);
            else
                run_stage<false>(stage, i, part);
        }
        void end_step() {
            const auto write = [&](int part) { write_outputs(of.run.split.template units<T>(of.run.Hp, 1, part)); };
            if (of.run.own_rows) worker.each(write);
            if (of.call.above) of.call.above->reached(at.s + 1);
        }
        void end_chunk() {}
        void finish() {}

        // Not inlined: with few units, registers that hold the loop's variables cost a tenth of the time of a step.
        template <bool KEEP, class S> __attribute__((noinline)) void run_stage(S stage, int i, int part) {
            const Range units = of.products.units(i, part);
            StageSums<F> sums;
            start(stage, i, part, sums);
            of.products.take_left(stage, sums, at, nullptr, begin, count, room);
            const auto elementwise = [&](const Row<T>& row, ptrdiff_t, ptrdiff_t, int flags) {
                if (!(flags & Flag::hold))
                    S::template run<KEEP, T>(row, nullptr);
                else if (i == 0)
                    hold<KEEP>(row);
            };
            of.products.each_sums(stage, i, sums, at, units, begin, count, this->scratch, room, elementwise);
        }

        // Initial values of the sums of a stage: projections of gates, biases, or zeros.
        template <class S> void start(S, int i, int part, StageSums<F>& sums) const {
            const bool hoisted = !of.at_each_step && gates_of<S>();
            const T* projected = hoisted ? of.projection.at(at.s, span, count, part) : nullptr;
            for (int a = 0; a < S::sums; ++a) {
                const Sum sum = S::sum[a];
                if (projected && sum.gate >= 0)
                    sums.start(a, projected + sum.gate * of.run.Hp, of.projection.row());
                else
                    sums.start(a, of.run.unit_row(sum.unit), 0);
            }
            if constexpr (can_project_ahead<F>) sums.ahead = of.projection.beside(part, at.s, i);
        }

        // A step that holds the state. BPTT multiplies what is kept by zeros, so it must be finite.
        template <bool KEEP> void hold(const Row<T>& row) const {
            for (int k = 0; k < Cell::states; ++k) store(row.next[k], load(row.prev[k]));
            for (int k = 0; KEEP && k < Cell::keeps; ++k) store(row.keep + k * row.Hp, Vec<T>{});
        }

        void write_outputs(Range units) const {
            T* y = static_cast<T*>(of.call.y) + at.t * of.call.y_time;
            for (ptrdiff_t n = begin; n < begin + count; ++n)
                for (ptrdiff_t u = units.first; u < units.last; u += width<T>) {
                    const bool held = of.run.flag(at.t, n) & Flag::hold;
                    const Vec<T> value = held ? Vec<T>{} : load(at.next[0] + n * at.next_row[0] + u);
                    store_head(y + n * of.call.y_row + u, value, of.run.H - u);
                }
        }
    };
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
