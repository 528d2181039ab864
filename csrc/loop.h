// What both passes share: the sizes, states and threads of a call, and the time loop.
#pragma once

#include <algorithm>

#include "step_tile.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class F> class Pass {
    using T = typename F::Element;
    static_assert(Cell::states <= max_states && Cell::params <= max_unit_params, "a cell has more than api.h allows");
    static_assert(Cell::gates <= max_gates && max_gates <= max_sources, "a cell has more gates than cell.h allows");

  public:
    Outcome outcome() const { return stopped ? Outcome::stopped : finite ? Outcome::done : Outcome::not_finite; }

  protected:
    // The sequences of one worker, and its scratch memory.
    struct Share {
        const Worker& worker;
        Ran& ran;
        const ptrdiff_t begin, count;
        T *const scratch, *const entering;  // of a StepTile, and of CallState::locate
        typename F::Item* const room;
        At<T> at;     // the current step
        Span span{};  // and its chunk

        Share(const Pass& pass, const Worker& worker, Ran& ran)
            : worker(worker), ran(ran), begin(pass.run.split.begin(worker.first)),
              count(pass.run.split.end(worker.first) - begin), scratch(pass.room + worker.first * pass.room_size),
              entering(scratch + StepTile<T>::size()),
              room(reinterpret_cast<typename F::Item*>(entering + pass.run.entering_size())) {}
    };

    Workspace memory;
    CallState<Cell, T> run;
    std::atomic<bool> finite{true}, stopped{false};

    explicit Pass(const Call& call) : run(call) {}

    // Scratch memory of the workers, with `items` items each for operands.
    void place_room(ptrdiff_t items) {
        room_size = padded<T>(StepTile<T>::size() + run.entering_size() + items);
        room = memory.take<T>(room_size * run.split.parts);
    }

    // Runs the steps of one worker, chunk by chunk, from the last to the first if `backwards`. `pass` is the worker's
    // Share and does the work: begin_chunk(), begin_step(), step(stage, index, part), end_step(), end_chunk(); at the
    // end, unless the call is stopped, finish().
    template <class Stages, class P> void loop(P& pass, const Call& call, ptrdiff_t chunk, bool backwards) {
        const TileSession session;
        StopPoll looks(run, call);
        for (ptrdiff_t done = 0; done < run.T_; done += chunk) {
            const ptrdiff_t count = std::min(chunk, run.T_ - done);
            const ptrdiff_t first = backwards ? run.T_ - done - count : done;
            pass.span = run.span(first, count);
            pass.begin_chunk();
            for (ptrdiff_t k = 0; k < count; ++k, ++pass.ran.steps) {
                if (looks.due() && pass.worker.ended()) {
                    stopped = true;
                    return;
                }
                run.locate(pass.at, first + (backwards ? count - 1 - k : k), pass.begin, pass.count, pass.entering);
                pass.begin_step();
                Stages::each([&](auto stage, int i) {
                    pass.worker.each([&](int part) { pass.step(stage, i, part); });
                    pass.worker.wait();
                });
                pass.end_step();
            }
            pass.end_chunk();
        }
        pass.finish();
        if (!session.finite()) finite = false;
    }

  private:
    T* room;
    ptrdiff_t room_size;
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
