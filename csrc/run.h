// Sizes, times and states of a call, and rows padded to whole vectors with zeros, so that no loop has a remainder.
#pragma once

#include "panel.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

constexpr int max_products = 4;

template <class T> ptrdiff_t padded(ptrdiff_t H) { return (H + width<T> - 1) / width<T> * width<T>; }

// (rows, H) to (rows, Hp), zeros in the padding; all zeros if there is nothing to copy.
template <class T> void pad_rows(T* to, const T* from, ptrdiff_t rows, ptrdiff_t H, ptrdiff_t Hp) {
    if (!from) return clear(to, rows * Hp);
    for (ptrdiff_t n = 0; n < rows; ++n) {
        copy_row(to + n * Hp, from + n * H, H);
        for (ptrdiff_t j = H; j < Hp; ++j) to[n * Hp + j] = 0;
    }
}

// One state at every step: before the first step in rows of Hp, after each step indexed by time, or by step with
// only two rows where nothing is kept.
template <class T> struct Track {
    T* first;
    T* at;
    ptrdiff_t time, row;
    bool ring;

    T* after(ptrdiff_t s, ptrdiff_t t) const { return at + (ring ? s & 1 : t) * time; }
};

// All flags that the steps of a call have.
inline int seen_flags(const Call& call) {
    uint8_t seen = 0;
    for (ptrdiff_t i = 0; call.flags && i < call.T * call.N; ++i) seen |= call.flags[i];
    return seen;
}

// Sizes, times and states of a call.
template <class Cell, class T> struct Run {
    ptrdiff_t T_, N, D, H, Hp;
    bool reverse;
    const uint8_t* flags;  // (T, N), or null
    int seen;              // the flags that any step has
    bool own_rows;         // states are kept apart from y
    Track<T> state[max_states];
    T* reset[max_states];  // (N, Hp) if any step is reset
    T* keep;
    ptrdiff_t keep_time;
    const T* units;

    explicit Run(const Call& call)
        : T_(call.T), N(call.N), D(call.D), H(call.H), Hp(padded<T>(call.H)), reverse(call.reverse),
          flags(call.flags), seen(seen_flags(call)), own_rows(Hp != H || seen & Flag::hold) {}

    ptrdiff_t time_of(ptrdiff_t s) const { return reverse ? T_ - 1 - s : s; }
    const T* prev(int k, ptrdiff_t s) const {
        return s ? state[k].after(s - 1, time_of(s - 1)) : state[k].first;
    }
    ptrdiff_t prev_row(int k, ptrdiff_t s) const { return s ? state[k].row : Hp; }
    int flag(ptrdiff_t t, ptrdiff_t n) const { return flags ? flags[t * N + n] : 0; }
    // Whether any of the sequences from `begin` to `end` is reset at time t.
    bool any_reset(ptrdiff_t t, ptrdiff_t begin, ptrdiff_t end) const {
        if (!(seen & Flag::reset)) return false;
        int any = 0;
        for (ptrdiff_t n = begin; n < end; ++n) any |= flag(t, n);
        return any & Flag::reset;
    }
    void place_resets(Workspace& memory, const Call& call) {
        for (int k = 0; k < Cell::states && seen & Flag::reset; ++k) {
            reset[k] = memory.take<T>(N * Hp);
            pad_rows(reset[k], static_cast<const T*>(call.reset[k]), N, H, Hp);
        }
    }
    // A state of a sequence as it enters step `s`.
    const T* entering(int k, ptrdiff_t s, ptrdiff_t n) const {
        return flag(time_of(s), n) & Flag::reset ? reset[k] + n * Hp : prev(k, s) + n * prev_row(k, s);
    }

    // Numbers that the backward pass needs besides y: [first states][states][keep].
    ptrdiff_t saved_size() const {
        return Cell::states * N * Hp + (Cell::states - !own_rows) * T_ * N * Hp + T_ * N * Cell::keeps * Hp;
    }
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
    ptrdiff_t working_size() const {
        return Cell::states * N * Hp + 2 * Cell::states * N * Hp + N * Cell::keeps * Hp;
    }
};

// When a call looks for Ctrl-C: every so many steps, as the clock takes as long as a short step does.
class Looks {
  public:
    template <class Cell, class T>
    Looks(const Run<Cell, T>& run, const Call& call)
        : every(call.stop ? 1 + poll_work / (run.N * run.H * (run.D * Cell::gates + run.H * Cell::matrices) + 1000) : run.T_ + 1) {}

    // Whether the next step is one to look at; asked once a step.
    bool due() {
        if (--left > 0) return false;
        left = every;
        return true;
    }

  private:
    const ptrdiff_t every;
    ptrdiff_t left = 1;
};

// The biases, each row padded.
template <class Cell, class T> const T* bias_rows(Workspace& memory, const Call& call) {
    const ptrdiff_t H = call.H, Hp = padded<T>(H);
    T* units = memory.take<T>(Cell::units * Hp);
    for (int i = 0; i < Cell::units; ++i) {
        T* row = units + i * Hp;
        const T* x = call.bx && Cell::bias[i].gate >= 0 ? static_cast<const T*>(call.bx) + Cell::bias[i].gate * H : nullptr;
        const T* h = call.bh && Cell::bias[i].matrix >= 0 ? static_cast<const T*>(call.bh) + Cell::bias[i].matrix * H : nullptr;
        for (ptrdiff_t u = 0; u < Hp; u += width<T>) {
            Vec<T> value{};
            if (x) value += load_head(x + u, H - u);
            if (h) value += load_head(h + u, H - u);
            store(row + u, value);
        }
    }
    return units;
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
