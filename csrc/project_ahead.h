// The projection of the steps to come, done beside the products of one sequence's step. Those read all of the recurrent
// matrix for one multiply-add a number and wait for memory; the projection of several rows waits for nothing but the
// multipliers, and fills the time.
#pragma once

#include "step_tile.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Whether there are registers enough for both; narrower vectors have more instructions for a number, and wait less.
template <class F> constexpr bool can_project_ahead = F::per_item == 1 && vector_bytes == 64 && registers == 32;

// One vector of columns of the projection: `out[r] = begin + x[r] @ B` for `ahead_rows` rows.
template <class T> struct Piece {
    Side<T> x;
    const T *B, *begin;
    ptrdiff_t depth;
    T* out;
    ptrdiff_t out_row;

    void run() const {
        run_tile<Whole<T>, Layout::rows>(ahead_rows, 1, 1, x, B, depth, {{begin}, {0}, {out}, out_row});
    }
};

// The projection of the next steps, gate by gate and vector by vector: what is due is taken while a step is done.
template <class T> class Ahead {
  public:
    // A gate's packed columns, biases, and where its projections go, from the first of `vectors` vectors on.
    struct Gate {
        const T *B, *begin;
        ptrdiff_t to, vectors;
    };

    void add(const Gate& one) {
        gate[gates++] = one;
        total += one.vectors;
    }

    // The rows x from now on; `out_row` from one row of `out` to the next.
    void start(Side<T> x, ptrdiff_t depth, T* out, ptrdiff_t out_row) {
        now = {x, nullptr, nullptr, depth, out, out_row};
        number = 0;
        vector = 0;
        taken = 0;
        wanted = 0;
    }

    // Makes due what has to be done by the end of turn `turn` of `turns`.
    void grant(ptrdiff_t turn, ptrdiff_t turns) { wanted = total * (turn + 1) / turns; }

    bool due() const { return taken < wanted; }

    Piece<T> take() {
        while (vector == gate[number].vectors) {
            ++number;
            vector = 0;
        }
        const Gate& from = gate[number];
        Piece<T> piece = now;
        piece.B = from.B + vector * width<T> * now.depth;
        piece.begin = from.begin + vector * width<T>;
        piece.out += from.to + vector * width<T>;
        ++vector;
        ++taken;
        return piece;
    }

    void run_due() {
        while (due()) take().run();
    }

  private:
    Gate gate[max_gates];
    Piece<T> now;
    int gates = 0, number = 0;
    ptrdiff_t total = 0, vector = 0, taken = 0, wanted = 0;
};

// A tile of one row with a piece beside it.
template <class T, int A, int V>
void tile_beside(const T* a, const T* b, ptrdiff_t depth, const Ends<T>& ends, const Piece<T>& piece) {
    constexpr int W = width<T>, C = A * V, R = ahead_rows;
    Vec<T> sum[C], ahead[R];
    FASTRNN_UNROLL (int c = 0; c < C; ++c) sum[c] = load(ends.begin[c / V] + (c % V) * W);
    FASTRNN_UNROLL (int r = 0; r < R; ++r) ahead[r] = load(piece.begin);
    Walk<T, R> x(piece.x);
    const T* B = piece.B;
    const auto add = [&](ptrdiff_t k) __attribute__((always_inline)) {
        const Vec<T> number = splat(a[k]);
        FASTRNN_UNROLL (int c = 0; c < C; ++c) sum[c] += number * load(b + c * W);
        b += C * W;
    };
    const auto add_ahead = [&]() __attribute__((always_inline)) {
        const Vec<T> columns = load(B);
        FASTRNN_UNROLL (int r = 0; r < R; ++r) ahead[r] += splat(x.at(r)) * columns;
        x.next();
        B += W;
    };
    const ptrdiff_t both = depth < piece.depth ? depth : piece.depth;
    for (ptrdiff_t k = 0; k < both; ++k) {
        add(k);
        add_ahead();
    }
    for (ptrdiff_t k = both; k < depth; ++k) add(k);
    for (ptrdiff_t k = both; k < piece.depth; ++k) add_ahead();
    FASTRNN_UNROLL (int c = 0; c < C; ++c) store(ends.out[c / V] + (c % V) * W, sum[c]);
    FASTRNN_UNROLL (int r = 0; r < R; ++r) store(piece.out + r * piece.out_row, ahead[r]);
}

template <class T, int A, int V> constexpr auto beside_or_none() {
    if constexpr (A * V <= ahead_columns)
        return &tile_beside<T, A, V>;
    else
        return static_cast<decltype(&tile_beside<T, 1, 1>)>(nullptr);
}

template <class T>
void run_beside(int sums, int vectors, const T* a, const T* B, ptrdiff_t depth, const Ends<T>& ends,
                const Piece<T>& piece) {
#define FASTRNN_BESIDE(A)                                                                                          \
    {                                                                                                              \
        beside_or_none<T, A, 1>(), beside_or_none<T, A, 2>(), beside_or_none<T, A, 4>(), beside_or_none<T, A, 8>() \
    }
    static constexpr decltype(&tile_beside<T, 1, 1>) table[4][4] = {FASTRNN_BESIDE(1), FASTRNN_BESIDE(2),
                                                                    FASTRNN_BESIDE(3), FASTRNN_BESIDE(4)};
#undef FASTRNN_BESIDE
    table[sums - 1][vectors == 8 ? 3 : vectors / 2](a, B, depth, ends, piece);
}

// Runs tiles of a step, and beside them what is due.
template <class T> struct Beside {
    Ahead<T>* ahead;

    FASTRNN_INLINED void operator()(int rows, int sums, int vectors, Side<T> a, const T* B, ptrdiff_t depth,
                                    const Ends<T>& ends) const {
        if (ahead->due())
            run_beside(sums, vectors, a.at, B, depth, ends, ahead->take());
        else
            run_tile<Whole<T>, Layout::rows>(rows, sums, vectors, a, B, depth, ends);
    }
};

// The projection of a chunk of steps for each part of a call, while the steps of the chunk before it run.
template <class Cell, class F> class InputAhead {
    using T = typename F::Number;

  public:
    // `units(i, part)`: the units of stage i that a part does.
    template <class G> void prepare(Workspace& memory, const CallState<Cell, T>& run, G units) {
        if constexpr (can_project_ahead<F>) {
            const int parts = run.split.parts;
            for (Panel<F>& panel : columns) panel = place<F>(memory, 1, 1, run.D, run.D, run.Hp);
            rows = memory.take<T>(parts * ahead_rows * row_size(run));
            ahead = memory.take<Ahead<T>>(parts);
            for (int part = 0; part < parts; ++part) {
                Ahead<T>* const one = new (ahead + part) Ahead<T>;
                each_gate<typename Cell::forward>([&](int i, Sum sum) {
                    const Range range = units(i, part);
                    one->add({columns[sum.gate].block(range.first, 1, 0), run.unit_row(sum.unit) + range.first,
                              sum.gate * run.Hp + range.first, (range.last - range.first) / width<T>});
                });
            }
        }
    }

    // Packs a range of the columns of gate `gate` of Wx.
    void pack_gate(const CallState<Cell, T>& run, int gate, Range range, Matrix<T> B) const {
        pack(columns[gate], 1, run.D, run.D, run.H, range, 1, [&](int, int) { return B; });
    }

    // At the first step of a chunk: the next one's projection begins, of sequence n; the first one's is done at once.
    // `out(s)` is where that of step s goes, `row` further on that of the next one.
    template <class G>
    void start_chunk(const CallState<Cell, T>& run, ptrdiff_t s, ptrdiff_t n, int part, G out, ptrdiff_t row) const {
        if constexpr (can_project_ahead<F>) {
            if (s == 0) {
                start(run, 0, n, part, out(0), row);
                grant(part, 0, 1)->run_due();
            }
            if (s + ahead_rows < run.T_) start(run, s + ahead_rows, n, part, out(s + ahead_rows), row);
        }
    }

    // With what is due by the end of turn `turn` of so many.
    Ahead<T>* grant(int part, ptrdiff_t turn, ptrdiff_t turns) const {
        ahead[part].grant(turn, turns);
        return ahead + part;
    }

  private:
    Panel<F> columns[Cell::gates];
    T* rows;
    Ahead<T>* ahead;

    // A step's input, and a vector: rows would often lie 4096 bytes apart.
    static ptrdiff_t row_size(const CallState<Cell, T>& run) { return padded<T>(run.D) + width<T>; }

    void start(const CallState<Cell, T>& run, ptrdiff_t first, ptrdiff_t n, int part, T* out, ptrdiff_t out_row) const {
        const ptrdiff_t size = row_size(run);
        T* const to = rows + part * ahead_rows * size;
        for (ptrdiff_t r = 0; r < ahead_rows; ++r)
            if (first + r < run.T_)
                copy_row(to + r * size, run.x.from(n).at + run.time_of(first + r) * run.x_time, run.D);
            else
                clear(to + r * size, run.D);
        ahead[part].start({to, size}, run.D, out, out_row);
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
