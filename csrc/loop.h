// What both passes share: a call's sizes, states and threads, and the loop over its steps.
#pragma once

#include "call_state.h"
#include "thread_split.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class F> class Pass {
    using T = typename F::Number;

  public:
    Outcome outcome() const {
        return stopped ? Outcome::stopped : finite ? Outcome::done : Outcome::not_finite;
    }

  protected:
    const ThreadSplit split;
    Workspace memory;
    CallState<Cell, T> run;
    std::atomic<bool> finite{true}, stopped{false};

    explicit Pass(const Call& call) : split(call.N, call.path), run(call) {}

    // One worker's steps, chunk by chunk, from the last one on if `backwards`. `pass` is its own:
    // begin_chunk(span); for each step begin_step(s), step(stage, number, part) and end_step(s); end_chunk(span). At the end, unless stopped, finish().
    template <class Stages, class P>
    void loop(P& pass, const Worker& worker, const Call& call, ptrdiff_t chunk, bool backwards, Ran& ran) {
        const TileSession session;
        Looks looks(run, call);
        for (ptrdiff_t done = 0; done < run.T_; done += chunk) {
            const ptrdiff_t count = std::min(chunk, run.T_ - done);
            const Span span = run.span(backwards ? run.T_ - done - count : done, count);
            pass.begin_chunk(span);
            for (ptrdiff_t k = 0; k < count; ++k, ++ran.steps) {
                if (looks.due() && worker.ended()) {
                    stopped = true;
                    return;
                }
                const ptrdiff_t s = span.first + (backwards ? count - 1 - k : k);
                pass.begin_step(s);
                Stages::each([&](auto stage, int i) {
                    worker.each([&](int part) { pass.step(stage, i, part); });
                    worker.wait();
                });
                pass.end_step(s);
            }
            pass.end_chunk(span);
        }
        pass.finish();
        if (!session.finite()) finite = false;
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
