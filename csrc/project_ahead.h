// The input projection of the next steps, interleaved with the recurrent products of one sequence's step. Those are a
// GEMV: one multiply-add per weight, bound by memory. The projection of several rows is bound by arithmetic and fills
// the time that the GEMV waits.
#pragma once

#include "step_tile.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Whether there are registers for both; with narrower vectors the GEMV needs more instructions per weight and waits
// less.
template <class F> constexpr bool can_project_ahead = F::per_item == 1 && vector_bytes == 64 && registers == 32;

// One vector of columns of the projection: out[r] = begin + x[r] @ B for `ahead_rows` rows.
//
//     x      in   (ahead_rows, depth)         rows contiguous
//     B      in   (depth, one vector)         contiguous
//     begin  in   (one vector)
//     out    out  (ahead_rows, one vector)    rows `out_row` apart
template <class T> struct Piece {
    Rows<T> x;
    const T *B, *begin;
    ptrdiff_t depth;
    T* out;
    ptrdiff_t out_row;

    void run() const {
        run_tile<Plain<T>, Layout::rows>(ahead_rows, 1, 1, x, B, depth, {{begin}, {0}, {out}, out_row});
    }
};

// The projection of the next steps in pieces, gate by gate and vector by vector; during a step those that are due are
// taken.
template <class T> class Ahead {
  public:
    // The packed columns of a gate, its biases, and the place of its projections in a row of `out`.
    struct Gate {
        const T *B, *begin;
        ptrdiff_t to, vectors;
    };

    void add(const Gate& one) {
        gate[gates++] = one;
        total += one.vectors;
    }

    // Starts over with other rows.
    void start(Rows<T> x, ptrdiff_t depth, T* out, ptrdiff_t out_row) {
        now = {x, nullptr, nullptr, depth, out, out_row};
        current = 0;
        vector = 0;
        taken = 0;
        wanted = 0;
    }

    // Makes due what has to be finished by the end of turn `turn` of `turns`.
    void grant(ptrdiff_t turn, ptrdiff_t turns) { wanted = total * (turn + 1) / turns; }

    bool due() const { return taken < wanted; }

    Piece<T> take() {
        while (vector == gate[current].vectors) {
            ++current;
            vector = 0;
        }
        const Gate& from = gate[current];
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
    int gates = 0, current = 0;
    ptrdiff_t total = 0, vector = 0, taken = 0, wanted = 0;
};

// The microkernel (tile.h) for one row of A sums of V vectors, interleaved with one piece of the projection.
template <class T, int A, int V>
void tile_beside(const T* a, const T* b, ptrdiff_t depth, const Ends<T>& ends, const Piece<T>& piece) {
    constexpr int W = width<T>, C = A * V, R = ahead_rows;
    Vec<T> sum[C], ahead[R];
    FASTRNN_UNROLL (int c = 0; c < C; ++c) sum[c] = load(ends.begin[c / V] + (c % V) * W);
    FASTRNN_UNROLL (int r = 0; r < R; ++r) ahead[r] = load(piece.begin);
    Walk<T, R> x(piece.x);
    const T* B = piece.B;
    const auto add = [&](ptrdiff_t k) __attribute__((always_inline)) {
        const Vec<T> value = splat(a[k]);
        FASTRNN_UNROLL (int c = 0; c < C; ++c) sum[c] += value * load(b + c * W);
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

template <class T> using TileBeside = void (*)(const T*, const T*, ptrdiff_t, const Ends<T>&, const Piece<T>&);

template <class T, int A, int V> constexpr TileBeside<T> beside_or_none() {
    if constexpr (A * V <= ahead_columns)
        return &tile_beside<T, A, V>;
    else
        return nullptr;
}

template <class T, int... I>
FASTRNN_INLINE TileBeside<T> find_beside(int sums, int vectors, std::integer_sequence<int, I...>) {
    static constexpr TileBeside<T> table[] = {beside_or_none<T, I / 4 + 1, 1 << I % 4>()...};
    return table[4 * (sums - 1) + power_of(vectors)];
}

// Runs the tiles of a step, and beside each a piece that is due.
template <class T> struct Beside {
    Ahead<T>* ahead;

    FASTRNN_INLINED void operator()(int rows, int sums, int vectors, Rows<T> a, const T* B, ptrdiff_t depth,
                                    const Ends<T>& ends) const {
        constexpr auto all = std::make_integer_sequence<int, 4 * max_sums>{};
        if (ahead->due())
            find_beside<T>(sums, vectors, all)(a.at, B, depth, ends, ahead->take());
        else
            run_tile<Plain<T>, Layout::rows>(rows, sums, vectors, a, B, depth, ends);
    }
};

// For each part of a call, projects a chunk of steps while the steps of the previous chunk run.
template <class Cell, class F> class InputAhead {
    using T = typename F::Element;

  public:
    // `units(i, part)` are the units of stage i that a part computes.
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

    // At the first step of a chunk: starts the projection of the next chunk, for sequence n; that of the very first
    // chunk is run at once. The projection of step s goes to `out(s)`, that of the next step `row` elements further on.
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

    // Makes due what has to be finished by the end of turn `turn` of `turns`.
    Ahead<T>* grant(int part, ptrdiff_t turn, ptrdiff_t turns) const {
        ahead[part].grant(turn, turns);
        return ahead + part;
    }

  private:
    Panel<F> columns[Cell::gates];
    T* rows;
    Ahead<T>* ahead;

    // Leading dimension of the copied rows of x; one vector more than needed, to avoid 4 KiB aliasing between rows.
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
