// Sizes, times and states of a call. Rows of H elements are padded with zeros to Hp, a multiple of the vector width, so
// that loops over units have no remainder.
#pragma once

#include "thread_split.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class T> ptrdiff_t padded(ptrdiff_t H) { return (H + width<T> - 1) / width<T> * width<T>; }

// (rows, H) to (rows, Hp), zeros in the padding; all zeros if there is nothing to copy.
template <class T> void pad_rows(T* to, const T* from, ptrdiff_t rows, ptrdiff_t H, ptrdiff_t Hp) {
    if (!from) return clear(to, rows * Hp);
    for (ptrdiff_t n = 0; n < rows; ++n) {
        copy_row(to + n * Hp, from + n * H, H);
        for (ptrdiff_t j = H; j < Hp; ++j) to[n * Hp + j] = 0;
    }
}

// Storage of one state: before the first step (N, Hp); after each step indexed by time, or, if nothing is kept for
// BPTT, two buffers that the steps use in turn.
template <class T> struct Track {
    T* first;
    T* at;
    ptrdiff_t time, row;
    bool ring;

    T* after(ptrdiff_t s, ptrdiff_t t) const { return at + (ring ? s & 1 : t) * time; }
};

// Addresses of the operands and results of one step: sequence n is row n of each.
template <class T> struct At {
    ptrdiff_t s, t;  // step of the loop, and its time
    Rows<T> x;
    Rows<T> prev[max_states];
    T* next[max_states];
    ptrdiff_t next_row[max_states];
    T* keep;  // [Cell::keeps][Hp]
};

// Steps [first, first + count) of the loop; `low` is their earliest time.
struct Span {
    ptrdiff_t first, count, low;
};

// The union of the flags of all steps.
inline int seen_flags(const Call& call) {
    uint8_t seen = 0;
    for (ptrdiff_t i = 0; call.flags && i < call.T * call.N; ++i) seen |= call.flags[i];
    return seen;
}

template <class Cell, class T> struct CallState {
    const ThreadSplit split;
    ptrdiff_t T_, N, D, H, Hp;
    bool reverse;
    int seen;              // the union of all flags
    const uint8_t* flags;  // (T, N), or null where all are 0
    bool own_rows;         // the first state has storage apart from y
    Rows<T> x;             // at time 0
    ptrdiff_t x_time;
    Track<T> state[max_states];
    const T* reset[max_states];  // (N, Hp) if any step has the reset flag
    T* keep;                     // (N, Cell::keeps, Hp) by time; one step of it if nothing is kept
    ptrdiff_t keep_time;
    const T* units;  // (Cell::units + 1, Hp): biases and per-unit parameters, and a row of zeros

    explicit CallState(const Call& call)
        : split(call.N, call.path), T_(call.T), N(call.N), D(call.D), H(call.H), Hp(padded<T>(call.H)),
          reverse(call.reverse), seen(seen_flags(call)), flags(seen ? call.flags : nullptr),
          own_rows(Hp != H || seen & Flag::hold), x{static_cast<const T*>(call.x), call.x_row}, x_time(call.x_time) {}

    ptrdiff_t time_of(ptrdiff_t s) const { return reverse ? T_ - 1 - s : s; }
    Span span(ptrdiff_t first, ptrdiff_t count) const { return {first, count, reverse ? T_ - first - count : first}; }
    int flag(ptrdiff_t t, ptrdiff_t n) const { return flags ? flags[t * N + n] : 0; }
    // The state of all sequences after step s - 1.
    Rows<T> prev(int k, ptrdiff_t s) const {
        if (!s) return {state[k].first, Hp};
        return {state[k].after(s - 1, time_of(s - 1)), state[k].row};
    }
    // A state of one sequence as it enters step `s`.
    const T* entering(int k, ptrdiff_t s, ptrdiff_t n) const {
        return flag(time_of(s), n) & Flag::reset ? reset[k] + n * Hp : prev(k, s).from(n).at;
    }

    // Elements of the `room` that `locate` needs.
    ptrdiff_t entering_size() const { return seen & Flag::reset ? Cell::states * split.most_rows() * Hp : 0; }

    // Addresses of step `s` for `count` sequences from `begin` on. If one of them is reset, the entering states are
    // gathered in `room`, since a product reads its rows at one stride.
    void locate(At<T>& at, ptrdiff_t s, ptrdiff_t begin, ptrdiff_t count, T* room) const {
        const ptrdiff_t t = time_of(s);
        at.s = s;
        at.t = t;
        at.x = {x.at + t * x_time, x.row};
        at.keep = keep + t * keep_time;
        for (int k = 0; k < Cell::states; ++k) {
            at.prev[k] = prev(k, s);
            at.next[k] = state[k].after(s, t);
            at.next_row[k] = state[k].row;
        }
        if (seen & Flag::reset) enter_reset(at, begin, begin + count, room);
    }

    // Elements that BPTT needs besides y: [first states][states][keep].
    ptrdiff_t saved_size() const {
        return Cell::states * N * Hp + (Cell::states - !own_rows) * T_ * N * Hp + T_ * N * Cell::keeps * Hp;
    }
    ptrdiff_t working_size() const { return Cell::states * N * Hp + 2 * Cell::states * N * Hp + N * Cell::keeps * Hp; }
    void place(T* saved, T* y, ptrdiff_t y_time, ptrdiff_t y_row, bool all) {
        const ptrdiff_t rows = all ? T_ : 2;
        for (int k = 0; k < Cell::states; ++k, saved += N * Hp) state[k].first = saved;
        for (int k = 0; k < Cell::states; ++k) {
            const bool shared = k == 0 && !own_rows;
            state[k].at = shared ? y : saved;
            state[k].time = shared ? y_time : N * Hp;
            state[k].row = shared ? y_row : Hp;
            state[k].ring = !shared && !all;
            if (!shared) saved += rows * N * Hp;
        }
        keep = saved;
        keep_time = all ? N * Cell::keeps * Hp : 0;
    }

    const T* unit_row(int i) const { return units + (i < 0 ? Cell::units : i) * Hp; }

    // Pads the rows of biases and per-unit parameters, and the reset states.
    void pad_inputs(Workspace& memory, const Call& call) {
        T* rows = memory.take<T>((Cell::units + 1) * Hp);
        for (int i = 0; i < Cell::units; ++i) sum_row(rows + i * Hp, Cell::bias[i], call);
        clear(rows + Cell::units * Hp, Hp);
        units = rows;
        for (int k = 0; k < Cell::states && seen & Flag::reset; ++k) {
            T* to = memory.take<T>(N * Hp);
            pad_rows(to, static_cast<const T*>(call.reset[k]), N, H, Hp);
            reset[k] = to;
        }
    }

  private:
    void sum_row(T* row, const Bias& bias, const Call& call) const {
        const T* x = call.bx && bias.gate >= 0 ? static_cast<const T*>(call.bx) + bias.gate * H : nullptr;
        if (bias.param >= 0) x = static_cast<const T*>(call.unit[bias.param]);
        const T* h = static_cast<const T*>(call.bh);
        for (ptrdiff_t u = 0; u < Hp; u += width<T>) {
            Vec<T> value{};
            if (x) value += load_head(x + u, H - u);
            for (int i = 0; h && i < bias.matrices; ++i) value += load_head(h + bias.matrix[i] * H + u, H - u);
            store(row + u, value);
        }
    }

    void enter_reset(At<T>& at, ptrdiff_t begin, ptrdiff_t end, T* room) const {
        int any = 0;
        for (ptrdiff_t n = begin; n < end; ++n) any |= flag(at.t, n);
        for (int k = 0; k < Cell::states && any & Flag::reset; ++k) {
            at.prev[k] = {room - begin * Hp, Hp};
            for (ptrdiff_t n = begin; n < end; ++n, room += Hp) copy_row(room, entering(k, at.s, n), Hp);
        }
    }
};

// How often a call checks for Ctrl-C: every so many steps, since reading the clock takes as long as a short step.
class StopPoll {
  public:
    template <class Cell, class T>
    StopPoll(const CallState<Cell, T>& run, const Call& call)
        : every(call.stop ? 1 + poll_work / (run.N * run.H * (run.D * Cell::gates + run.H * Cell::matrices) + 1000)
                          : run.T_ + 1) {}

    // Whether to check before the next step; called once a step.
    bool due() {
        if (--left > 0) return false;
        left = every;
        return true;
    }

  private:
    const ptrdiff_t every;
    ptrdiff_t left = 1;
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
