// The recurrence: forward and BPTT of one cell over a batch, with one pass over the sequences' steps each.
//
// A step is done block of units by block of units, and for each block in tiles of sequences: the sums of the
// products, then the elementwise code while they are in the first-level cache. Rows of H numbers are padded to
// whole vectors with zeros, so that no loop has a remainder. A part is a range of the batch that one thread runs.
#pragma once

#include "gemm.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

constexpr int max_products = 4, max_threads = 64;
// Sequences below which the wait for a step's sums counts more than their number.
constexpr ptrdiff_t few = 4;
// Multiply-adds of a step for which waiting for another thread pays.
constexpr ptrdiff_t worth_a_wait = 16000;
// Steps of the layer below that a layer waits for at once.
constexpr ptrdiff_t wave_steps = 32;
// Steps for which packing the weights of a single sequence pays.
constexpr ptrdiff_t worth_packing = 8;

template <class T> ptrdiff_t padded(ptrdiff_t H) { return (H + width<T> - 1) / width<T> * width<T>; }

template <class T> void clear(T* at, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; ++i) at[i] = 0;
}

template <class T> void copy_row(T* to, const T* from, ptrdiff_t count) {
    for (ptrdiff_t j = 0; j < count; ++j) to[j] = from[j];
}

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

// Sizes, times and states of a call.
template <class Cell, class T> struct Run {
    ptrdiff_t T_, N, D, H, Hp;
    bool reverse, own_rows;  // own_rows: states are kept apart from y
    const int64_t* lengths;
    Track<T> state[max_states];
    T* keep;
    ptrdiff_t keep_time;
    const T* units;

    explicit Run(const Call& call)
        : T_(call.T), N(call.N), D(call.D), H(call.H), Hp(padded<T>(call.H)), reverse(call.reverse),
          own_rows(Hp != H || call.lengths), lengths(call.lengths) {}

    ptrdiff_t time_of(ptrdiff_t s) const { return reverse ? T_ - 1 - s : s; }
    const T* prev(int k, ptrdiff_t s) const {
        return s ? state[k].after(s - 1, time_of(s - 1)) : state[k].first;
    }
    ptrdiff_t prev_row(int k, ptrdiff_t s) const { return s ? state[k].row : Hp; }
    // Number of step `s` in the sequence's own count; idle unless 0 <= own < its length.
    ptrdiff_t own(ptrdiff_t s, ptrdiff_t n) const { return reverse && lengths ? s - (T_ - lengths[n]) : s; }
    bool idle(ptrdiff_t s, ptrdiff_t n) const {
        if (!lengths) return false;
        const ptrdiff_t step = own(s, n);
        return step < 0 || step >= lengths[n];
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

// How a call is divided between threads: by sequences, where no part waits for another; or by units, with a wait after
// every stage of a step: each part then reads only its share of the weights, and few sequences stay in one tile.
// What a part computes does not depend on the thread that runs it.
struct Division {
    ptrdiff_t N;
    int parts;
    bool by_units;

    Division(const Call& call, int matrices) : N(call.N) {
        const ptrdiff_t threads = call.threads < max_threads ? call.threads : max_threads;
        const ptrdiff_t worth = N * call.H * call.H * matrices / worth_a_wait;
        const ptrdiff_t of_units = worth < threads ? worth : threads;
        const ptrdiff_t of_sequences = N < 1 ? 1 : N < threads ? N : threads;
        by_units = of_units > 1 && of_units >= of_sequences && N < few * of_units;
        parts = int(by_units ? of_units : of_sequences);
    }

    // The first of a part's sequences: parts differ by at most one.
    ptrdiff_t begin(int part) const { return by_units ? 0 : N * part / parts; }
    ptrdiff_t end(int part) const { return by_units ? N : N * (part + 1) / parts; }
    ptrdiff_t most_rows() const { return by_units ? N : (N + parts - 1) / parts; }
    // Of memory that every part has of its own, unless parts are of units.
    ptrdiff_t owners() const { return by_units ? 1 : parts; }
    int owner(int part) const { return by_units ? 0 : part; }
    template <class T> Range units(ptrdiff_t columns, int vectors, int part) const {
        return by_units ? share<T>(columns, vectors, parts, part) : Range{0, columns};
    }
};

// What one thread does of a call: the parts `first`, `first + stride`, ...; it waits for the others at a barrier, if
// there is one.
struct Worker {
    int first, stride, parts;
    Barrier* barrier;

    template <class F> void each(F f) const {
        for (int part = first; part < parts; part += stride) f(part);
    }
    void wait() const {
        if (barrier) barrier->wait();
    }
    bool leads() const { return !barrier || first == 0; }
};

template <class F> void run_parts(int parts, F f) {
    parallel(parts, [](void* context, int part) { (*static_cast<F*>(context))(part); }, &f);
}

// Calls f(worker) in every thread of a call.
template <class F> void run_workers(const Division& division, F f) {
    const int parts = division.parts;
    if (!division.by_units) return run_parts(parts, [&](int part) { f(Worker{part, parts, parts, nullptr}); });
    const auto task = [&](int thread, Barrier& barrier) {
        f(Worker{thread, barrier.threads, parts, barrier.threads > 1 ? &barrier : nullptr});
    };
    using Task = decltype(task);
    together(parts, [](void* context, int thread, Barrier& barrier) { (*static_cast<Task*>(context))(thread, barrier); },
             const_cast<void*>(static_cast<const void*>(&task)));
}

// Calls f(first, rows) for `count` rows in tiles of at most `most`.
template <class F> FASTRNN_INLINE void each_tile(ptrdiff_t count, int most, F f) {
    for (ptrdiff_t n = 0; n < count;) {
        const int rows = balanced(n, count, most);
        f(n, rows);
        n += rows;
    }
}

template <class Stage> constexpr int widest_sums() {
    int widest = 1;
    for (int p = 0; p < Stage::products; ++p)
        if (Stage::product[p].sums > widest) widest = Stage::product[p].sums;
    return widest < max_sums ? widest : max_sums;
}

// Vectors of units that a block of a stage takes, so that a tile of `rows` rows has work for every register, and every
// one of `shares` shares of the blocks about the same.
template <class Stage> int block_vectors(ptrdiff_t rows, ptrdiff_t vectors, int shares) {
    const int widest = widest_sums<Stage>();
    int v = max_columns(rows < most_rows ? int(rows) : most_rows) / (widest == 3 ? 4 : widest);
    if (v > 8) v = 8;
    if (v < 1) v = 1;
    while (v > vectors && v > 1) v /= 2;
    const auto uneven = [&] { return shares > 1 && (vectors / v + shares - 1) / shares * shares * v * 8 > vectors * 9; };
    while (v > 2 && uneven()) v /= 2;
    return v;
}

// The sums of one tile of sequences and where they stand.
template <class T> struct Tally {
    static constexpr int block = 8 * width<T>;
    T* scratch;
    const T* at[4];
    ptrdiff_t row[4];

    static ptrdiff_t size() { return 4 * most_rows * block; }

    // Adds a product to the sums `sums[0..]`.
    void add(const Panel<T>& panel, const int* sums, ptrdiff_t u, int vectors, int rows, const T* a, ptrdiff_t a_row) {
        const ptrdiff_t out_row = vectors * width<T>;
        Ends<T> ends[2];
        for (int i = 0; i < panel.sums; ++i) {
            Ends<T>& group = ends[i / max_sums];
            const int s = sums[i], j = i % max_sums;
            group.begin[j] = at[s];
            group.begin_row[j] = row[s];
            group.out[j] = scratch + s * most_rows * block;
            group.out_row = out_row;
            at[s] = group.out[j];
            row[s] = out_row;
        }
        multiply(panel, u, vectors, rows, a, a_row, ends);
    }
};

// ---------------------------------------------------------------------------------------------------------------

template <class Cell, class T> class Forward {
  public:
    explicit Forward(const ForwardCall& call) : call(call), run(call), division(call, Cell::matrices), keep(call.keep) {
        T* saved = keep ? static_cast<T*>(call.saved) : memory.take<T>(run.working_size());
        run.place(saved, static_cast<T*>(call.y), call.y_time, call.y_row, keep);
        run.units = bias_rows<Cell, T>(memory, call);
        for (int k = 0; k < Cell::states; ++k)
            pad_rows(run.state[k].first, static_cast<const T*>(call.state[k]), run.N, run.H, run.Hp);
        const ptrdiff_t rows = division.most_rows();
        // Few sequences: each step would read all of Wx for little work, so many steps are projected at once.
        hoisted = rows < 8 && run.D > 4 && run.T_ > 1;
        place_panels(rows);
        chunk = hoisted ? (gemm_depth + rows - 1) / rows : run.T_;
        if (call.below && chunk > wave_steps) chunk = wave_steps;
        if (chunk > run.T_) chunk = run.T_;
        own_size = Tally<T>::size() + (hoisted ? run.D * gemm_vectors * width<T> : 0);
        projected_size = hoisted ? chunk * rows * Cell::gates * run.Hp : 0;
        own = memory.take<T>(own_size * division.parts);
        projected = memory.take<T>(projected_size * division.owners());
    }

    void execute() {
        run_parts(division.parts, [this](int part) { pack_share(part); });
        run_workers(division, [this](const Worker& worker) { keep ? run_steps<true>(worker) : run_steps<false>(worker); });
        const ptrdiff_t s = run.T_;
        for (int k = 0; k < Cell::states; ++k)
            for (ptrdiff_t n = 0; n < run.N; ++n)
                copy_row(static_cast<T*>(call.last[k]) + n * run.H, run.prev(k, s) + n * run.prev_row(k, s), run.H);
    }

  private:
    const ForwardCall& call;
    Workspace memory;
    Run<Cell, T> run;
    const Division division;
    bool keep, hoisted;
    int vectors[Cell::forward::count];
    ptrdiff_t chunk, own_size, projected_size;
    T *own, *projected;
    Panel<T> input[Cell::forward::count], panel[Cell::forward::count][max_products];
    // For each stage the vectors that hold the last units of all its sums, 0 where those have vectors of their own.
    int merged[Cell::forward::count];
    const T* tail_bias[Cell::forward::count];
    Panel<T> tail_input[Cell::forward::count], tail[Cell::forward::count][max_products];

    Matrix<T> Wx() const { return {static_cast<const T*>(call.Wx), call.Wx_row, call.Wx_col}; }
    Matrix<T> Wh() const { return {static_cast<const T*>(call.Wh), call.Wh_row, call.Wh_col}; }
    Matrix<T> block(Matrix<T> W, int m) const { return {W.at + m * run.H * W.col, W.row, W.col}; }

    // Sums of a stage that begin with a gate's projection: the first ones.
    template <class S> static constexpr int gates_of() {
        int gates = 0;
        while (gates < S::sums && S::sum[gates].gate >= 0) ++gates;
        return gates;
    }
    // Columns of a stage's whole vectors, without the merged ones.
    ptrdiff_t whole(int i) const { return merged[i] ? run.H - run.H % width<T> : run.Hp; }
    Range units(int i, int part) const { return division.units<T>(whole(i), vectors[i], part); }

    // Calls f(stage number, panel, depth, sums, B) for every matrix product, where B(sum) is a matrix.
    template <class F> void each_panel(F f) {
        Cell::forward::each([&](auto stage, int i) {
            using S = decltype(stage);
            constexpr int gates = gates_of<S>();
            if (!hoisted && gates) f(i, input[i], run.D, gates, [&](int s) { return block(Wx(), S::sum[s].gate); });
            for (int p = 0; p < S::products; ++p) {
                const Product& product = S::product[p];
                f(i, panel[i][p], run.H, product.sums, [&](int s) { return block(Wh(), product.matrix[s]); });
            }
        });
    }

    void place_panels(ptrdiff_t rows) {
        Cell::forward::each([&](auto stage, int i) {
            using S = decltype(stage);
            merged[i] = hoisted || division.by_units || rows < few ? 0 : merged_vectors<S>(run.H % width<T>);
            vectors[i] = block_vectors<S>(rows, whole(i) / width<T>, division.by_units ? division.parts : 1);
            if (merged[i]) pack_tail<S>(i);
        });
        each_panel([&](int i, Panel<T>& panel, ptrdiff_t depth, int sums, auto B) {
            const Matrix<T> first = B(0);
            const bool as_it_is = run.N == 1 && run.T_ < worth_packing && run.Hp == run.H && first.col == 1 && first.row;
            panel = as_it_is ? in_place<T>(sums, depth, B) : place<T>(memory, 1, sums, depth, depth, whole(i));
        });
    }

    void pack_share(int part) {
        each_panel([&](int i, Panel<T>& panel, ptrdiff_t depth, int, auto B) {
            if (panel.row) return;
            const Range range = share<T>(whole(i), vectors[i], division.parts, part);
            pack(panel, 1, depth, depth, run.H, range, vectors[i], [&](int, int s) { return B(s); });
        });
    }

    template <class S> static int merged_vectors(ptrdiff_t units) {
        const ptrdiff_t numbers = S::sums * units, vectors = numbers <= width<T> ? 1 : 2;
        return units && vectors < S::sums && numbers <= vectors * width<T> ? int(vectors) : 0;
    }

    template <class S> void pack_tail(int i) {
        constexpr int gates = gates_of<S>();
        const ptrdiff_t units = run.H % width<T>, first = run.H - units, columns = merged[i] * width<T>;
        T* bias = memory.take<T>(columns);
        clear(bias, columns);
        for (int j = 0; j < S::sums; ++j) copy_row(bias + j * units, run.units + S::sum[j].unit * run.Hp + first, units);
        tail_bias[i] = bias;
        const auto pack = [&](ptrdiff_t depth, int count, auto sum, auto matrix) {
            T* to = memory.take<T>(depth * columns);
            clear(to, depth * columns);
            for (int b = 0; b < count; ++b) {
                const Matrix<T> B = matrix(b);
                for (ptrdiff_t k = 0; k < depth; ++k)
                    for (ptrdiff_t j = 0; j < units; ++j)
                        to[k * columns + sum(b) * units + j] = B.at[k * B.row + (first + j) * B.col];
            }
            return Panel<T>{to, depth, 1, 0, {}};
        };
        if (gates)
            tail_input[i] = pack(run.D, gates, [](int b) { return b; }, [&](int b) { return block(Wx(), S::sum[b].gate); });
        for (int p = 0; p < S::products; ++p) {
            const Product& product = S::product[p];
            tail[i][p] = pack(run.H, product.sums, [&](int b) { return product.sum[b]; }, [&](int b) { return block(Wh(), product.matrix[b]); });
        }
    }

    template <bool KEEP> void run_steps(Worker worker) {
        const ptrdiff_t begin = division.begin(worker.first), end = division.end(worker.first);
        Tally<T> tally{};
        tally.scratch = own + worker.first * own_size;
        T* packed = tally.scratch + Tally<T>::size();
        T* inputs = projected + division.owner(worker.first) * projected_size;
        for (ptrdiff_t s = 0; s < run.T_; ++s) {
            if (call.below && s % chunk == 0) call.below->wait_for(s + chunk < run.T_ ? s + chunk : run.T_);
            if (hoisted && s % chunk == 0) worker.each([&](int part) { project_chunk(s, begin, end, part, packed, inputs); });
            const T* x = nullptr;
            if (hoisted) {
                const ptrdiff_t low = low_time(s), t = run.time_of(s);
                x = inputs + (t - low) * (end - begin) * Cell::gates * run.Hp;
            }
            const At at = addresses(s, x);
            Cell::forward::each([&](auto stage, int i) {
                worker.each([&](int part) { step<KEEP>(stage, i, at, units(i, part), begin, end, tally); });
                worker.wait();
            });
            if (run.own_rows) worker.each([&](int part) { write_outputs(s, begin, end, division.units<T>(run.Hp, 1, part)); });
            if (call.above) call.above->reached(s + 1);
        }
    }

    // Least time of the chunk that step `s` is in.
    ptrdiff_t low_time(ptrdiff_t s) const {
        const ptrdiff_t first = s / chunk * chunk, last = first + chunk < run.T_ ? first + chunk : run.T_;
        return run.reverse ? run.T_ - last : first;
    }

    // Wx is packed block by block, into memory that stays in a near cache: a chunk has many rows for each.
    void project_chunk(ptrdiff_t s, ptrdiff_t begin, ptrdiff_t end, int part, T* packed, T* to) {
        const ptrdiff_t low = low_time(s), left = run.T_ - s, steps = left < chunk ? left : chunk, n = end - begin;
        const ptrdiff_t row = Cell::gates * run.Hp;
        const Rows<const T> x{static_cast<const T*>(call.x) + low * call.x_time + begin * call.x_row, call.x_time, call.x_row};
        Cell::forward::each([&](auto stage, int i) {
            using S = decltype(stage);
            const Range range = units(i, part);
            for (int j = 0; j < gates_of<S>(); ++j) {
                const int g = S::sum[j].gate;
                const T* bias = run.units + S::sum[j].unit * run.Hp + range.first;
                T* first = to + g * run.Hp + range.first;
                const auto pack_block = [&](ptrdiff_t u, int v) {
                    pack_columns(packed, v * width<T>, block(Wx(), g), run.D, run.H, range.first + u, v * width<T>);
                    return packed;
                };
                // One sequence: its steps are the rows.
                if (n == 1)
                    project<T>({x.at, 0, call.x_time}, run.D, pack_block, bias, {first, 0, row}, 1, steps, range.last - range.first);
                else
                    project<T>(x, run.D, pack_block, bias, {first, n * row, row}, steps, n, range.last - range.first);
            }
        });
    }

    // Where one step finds and puts its values.
    struct At {
        ptrdiff_t s;
        const T *x, *projected;
        T* kept;
        const T* prev[max_states];
        T* next[max_states];
        ptrdiff_t prev_row[max_states], next_row[max_states];
    };

    At addresses(ptrdiff_t s, const T* projected) const {
        const ptrdiff_t t = run.time_of(s);
        At at{s, static_cast<const T*>(call.x) + t * call.x_time, projected, run.keep + t * run.keep_time, {}, {}, {}, {}};
        for (int k = 0; k < Cell::states; ++k) {
            at.prev[k] = run.prev(k, s);
            at.prev_row[k] = run.prev_row(k, s);
            at.next[k] = run.state[k].after(s, t);
            at.next_row[k] = run.state[k].row;
        }
        return at;
    }

    template <bool KEEP, class S>
    void step(S stage, int i, const At& at, Range units, ptrdiff_t begin, ptrdiff_t end, Tally<T>& tally) {
        const ptrdiff_t count = end - begin;
        each_block<T>(units, vectors[i], at.s & 1, [&](ptrdiff_t u, int v) {
            each_tile(count, max_rows(widest_sums<S>() * vectors[i]), [&](ptrdiff_t n, int rows) {
                block_sums(stage, i, at, u, v, n, begin + n, rows, tally);
                apply<KEEP>(stage, i, at, u, v, begin + n, rows, tally);
            });
        });
        if (!merged[i]) return;
        each_tile(count, max_rows(merged[i]), [&](ptrdiff_t n, int rows) {
            tail_sums(stage, i, at, begin + n, rows, tally);
            apply<KEEP>(stage, i, at, units.last, 1, begin + n, rows, tally);
        });
    }

    // The sums of `rows` sequences from `first` on, number `n` of the part, for v vectors of units from u on.
    template <class S>
    void block_sums(S, int i, const At& at, ptrdiff_t u, int v, ptrdiff_t n, ptrdiff_t first, int rows, Tally<T>& tally) {
        constexpr int gates[4] = {0, 1, 2, 3};
        for (int j = 0; j < S::sums; ++j) {
            const bool from_x = at.projected && S::sum[j].gate >= 0;
            const T* projected = at.projected + (n * Cell::gates + S::sum[j].gate) * run.Hp + u;
            tally.at[j] = from_x ? projected : run.units + S::sum[j].unit * run.Hp + u;
            tally.row[j] = from_x ? Cell::gates * run.Hp : 0;
        }
        if (!at.projected && S::sum[0].gate >= 0)
            tally.add(input[i], gates, u, v, rows, at.x + first * call.x_row, call.x_row);
        for (int p = 0; p < S::products; ++p) {
            const Source from = source(at, S::product[p]);
            tally.add(panel[i][p], S::product[p].sum, u, v, rows, from.at + first * from.row, from.row);
        }
    }

    // The same for the units that do not fill a vector: the sums' units stand side by side in `merged` vectors.
    template <class S> void tail_sums(S, int i, const At& at, ptrdiff_t first, int rows, Tally<T>& tally) {
        const ptrdiff_t out_row = merged[i] * width<T>, units = run.H % width<T>;
        Ends<T> ends{{tail_bias[i]}, {0}, {tally.scratch}, out_row};
        const auto add = [&](const Panel<T>& panel, const T* a, ptrdiff_t a_row) {
            multiply(panel, 0, merged[i], rows, a + first * a_row, a_row, &ends);
            ends.begin[0] = tally.scratch;
            ends.begin_row[0] = out_row;
        };
        if (S::sum[0].gate >= 0) add(tail_input[i], at.x, call.x_row);
        for (int p = 0; p < S::products; ++p) {
            const Source from = source(at, S::product[p]);
            add(tail[i][p], from.at, from.row);
        }
        for (int j = 0; j < S::sums; ++j) {
            tally.at[j] = tally.scratch + j * units;
            tally.row[j] = out_row;
        }
    }

    struct Source {
        const T* at;
        ptrdiff_t row;
    };
    Source source(const At& at, const Product& product) const {
        if (product.kind == Kind::prev) return {at.prev[product.index], at.prev_row[product.index]};
        return {at.kept + product.index * run.Hp, Cell::keeps * run.Hp};
    }

    // The elementwise code on the sums.
    template <bool KEEP, class S>
    void apply(S, int i, const At& at, ptrdiff_t u, int v, ptrdiff_t first, int rows, const Tally<T>& tally) {
        for (int r = 0; r < rows; ++r) {
            const ptrdiff_t m = first + r;
            T* kept = at.kept + m * Cell::keeps * run.Hp + u;
            const bool idle = run.idle(at.s, m);
            for (ptrdiff_t j = 0; j < v * width<T>; j += width<T>) {
                Row<T> row;
                for (int a = 0; a < S::sums; ++a) row.acc[a] = tally.at[a] + r * tally.row[a] + j;
                for (int k = 0; k < Cell::states; ++k) {
                    row.prev[k] = at.prev[k] + m * at.prev_row[k] + u + j;
                    row.next[k] = at.next[k] + m * at.next_row[k] + u + j;
                }
                row.keep = kept + j;
                row.unit = run.units + u + j;
                row.Hp = run.Hp;
                if (!idle)
                    S::template run<KEEP, T>(row, nullptr);
                else if (i == 0)
                    hold<KEEP>(row);
            }
        }
    }

    // A step past a sequence's end. What is kept goes into products with zeros: it must be finite.
    template <bool KEEP> void hold(const Row<T>& row) {
        for (int k = 0; k < Cell::states; ++k) store(row.next[k], load(row.prev[k]));
        if (KEEP)
            for (int k = 0; k < Cell::keeps; ++k) store(row.keep + k * run.Hp, Vec<T>{});
    }

    void write_outputs(ptrdiff_t s, ptrdiff_t begin, ptrdiff_t end, Range units) {
        const ptrdiff_t t = run.time_of(s);
        const T* from = run.state[0].after(s, t);
        T* y = static_cast<T*>(call.y) + t * call.y_time;
        for (ptrdiff_t n = begin; n < end; ++n)
            for (ptrdiff_t u = units.first; u < units.last; u += width<T>) {
                const Vec<T> value = run.idle(s, n) ? Vec<T>{} : load(from + n * run.state[0].row + u);
                store_head(y + n * call.y_row + u, value, run.H - u);
            }
    }
};

// ---------------------------------------------------------------------------------------------------------------

template <class Cell, class T> class Backward {
  public:
    explicit Backward(const BackwardCall& call) : call(call), run(call), division(call, Cell::matrices) {
        run.place(static_cast<T*>(const_cast<void*>(call.saved)), static_cast<T*>(const_cast<void*>(call.y)), call.y_time,
                  call.y_row, true);
        run.units = bias_rows<Cell, T>(memory, call);
        const ptrdiff_t N = run.N, H = run.H, Hp = run.Hp, rows = division.most_rows();
        for (int k = 0; k < Cell::states; ++k) {
            carry[k] = memory.take<T>(N * Hp);
            pad_rows(carry[k], static_cast<const T*>(call.dlast[k]), N, H, Hp);
        }
        chunk = rows < gemm_depth ? gemm_depth / (rows > 0 ? rows : 1) : 1;
        if (chunk > run.T_) chunk = run.T_;
        place_panels(rows);
        da_size = rows * Cell::slots * Hp;
        depth = chunk * rows < gemm_depth ? chunk * rows : gemm_depth;
        own_size = Tally<T>::size() + depth * (gemm_vectors * width<T> + run.D + sources() * Hp);
        own = memory.take<T>(own_size * division.parts);
        da = memory.take<T>((chunk + 1) * da_size * division.owners());
        place_sums();
    }

    void execute() {
        run_parts(division.parts, [this](int part) { pack_share(part); });
        run_workers(division, [this](const Worker& worker) { run_steps(worker); });
        reduce();
    }

  private:
    struct Sums {
        T* dWx;
        T* dWh;
        T* dslots;
    };
    const BackwardCall& call;
    Workspace memory;
    Run<Cell, T> run;
    const Division division;
    int vectors[Cell::backward::count];
    ptrdiff_t chunk, da_size, depth, own_size;
    T *carry[max_states], *own, *da;
    Panel<T> input, panel[Cell::backward::count][max_products];
    Sums sums[max_threads];

    ptrdiff_t gates() const { return Cell::gates * run.Hp; }
    ptrdiff_t matrices() const { return Cell::matrices * run.Hp; }
    Range units(int i, int part) const { return division.units<T>(run.Hp, vectors[i], part); }
    ptrdiff_t input_columns() const { return padded<T>(run.D); }

    void place_panels(ptrdiff_t rows) {
        const ptrdiff_t H = run.H, Hp = run.Hp;
        input = place<T>(memory, Cell::gates, 1, H, Hp, input_columns());
        Cell::backward::each([&](auto stage, int i) {
            using S = decltype(stage);
            vectors[i] = block_vectors<S>(rows, Hp / width<T>, division.by_units ? division.parts : 1);
            for (int p = 0; p < S::products; ++p) panel[i][p] = place<T>(memory, S::product[p].sources, 1, H, Hp, Hp);
        });
    }

    void pack_share(int part) {
        const ptrdiff_t H = run.H, Hp = run.Hp;
        const T* Wx = static_cast<const T*>(call.Wx);
        pack(input, Cell::gates, H, Hp, run.D, share<T>(input_columns(), gemm_vectors, division.parts, part), gemm_vectors,
             [&](int g, int) { return Matrix<T>{Wx + g * H * call.Wx_col, call.Wx_col, call.Wx_row}; });
        const T* Wh = static_cast<const T*>(call.Wh);
        Cell::backward::each([&](auto stage, int i) {
            using S = decltype(stage);
            for (int p = 0; p < S::products; ++p) {
                const Product& product = S::product[p];
                pack(panel[i][p], product.sources, H, Hp, H, share<T>(Hp, vectors[i], division.parts, part), vectors[i],
                     [&](int source, int) {
                         const T* at = Wh + product.matrix[source] * H * call.Wh_col;
                         return Matrix<T>{at, call.Wh_col, call.Wh_row};
                     });
            }
        });
    }

    // Vectors that stand on the left of weight gradients; the same one may serve several uses.
    static constexpr int source_of(int use) {
        for (int i = 0; i < use; ++i)
            if (Cell::use[i].kind == Cell::use[use].kind && Cell::use[i].index == Cell::use[use].index) return source_of(i);
        int count = 0;
        for (int i = 0; i < use; ++i) {
            bool first = true;
            for (int j = 0; j < i; ++j)
                if (Cell::use[j].kind == Cell::use[i].kind && Cell::use[j].index == Cell::use[i].index) first = false;
            count += first;
        }
        return count;
    }
    static constexpr int sources() {
        int count = 0;
        for (int i = 0; i < Cell::uses; ++i)
            if (source_of(i) + 1 > count) count = source_of(i) + 1;
        return count;
    }

    // Whether every matrix is in one product: its gradient then begins with that product.
    static constexpr bool single_use() {
        for (int i = 0; i < Cell::uses; ++i)
            for (int j = 0; j < i; ++j)
                if (Cell::use[j].matrix == Cell::use[i].matrix) return false;
        return true;
    }

    void place_sums() {
        const bool direct = run.Hp == run.H;
        const ptrdiff_t wx = run.D * gates(), wh = run.H * matrices(), slots = Cell::slots * run.Hp;
        for (int part = 0; part < division.owners(); ++part) {
            const bool own = part || !direct;
            sums[part] = {own ? memory.take<T>(wx) : static_cast<T*>(call.dWx), own ? memory.take<T>(wh) : static_cast<T*>(call.dWh),
                          own ? memory.take<T>(slots) : static_cast<T*>(call.dslots)};
        }
    }

    void clear_sums(const Sums& total) {
        if (run.T_ * run.N == 0) clear(total.dWx, run.D * gates());
        if (run.T_ * run.N == 0 || !single_use()) clear(total.dWh, run.H * matrices());
        clear(total.dslots, Cell::slots * run.Hp);
    }

    void run_steps(Worker worker) {
        const ptrdiff_t begin = division.begin(worker.first), end = division.end(worker.first);
        const int owner = division.owner(worker.first);
        const Sums& total = sums[owner];
        if (worker.leads()) clear_sums(total);
        Tally<T> tally{};
        tally.scratch = own + worker.first * own_size;
        T* packed = tally.scratch + Tally<T>::size();
        T* edge = da + owner * (chunk + 1) * da_size;
        T* all = edge + da_size;
        const ptrdiff_t step_size = (end - begin) * Cell::slots * run.Hp;
        const T* after = nullptr;
        for (ptrdiff_t last = run.T_; last > 0;) {
            const ptrdiff_t first = last > chunk ? last - chunk : 0, low = run.reverse ? run.T_ - last : first;
            for (ptrdiff_t s = last - 1; s >= first; --s) {
                T* here = all + (run.time_of(s) - low) * step_size;
                Cell::backward::each([&](auto stage, int i) {
                    worker.each([&](int part) { step(stage, i, s, units(i, part), begin, end, tally, after, here); });
                    worker.wait();
                });
                after = here;
            }
            const Chunk done{all, low, last - first, begin, end - begin, last == run.T_};
            worker.each([&](int part) { add_weights(total, done, part, packed); });
            if (worker.leads()) copy_row(edge, after, step_size);
            worker.wait();
            after = edge;
            last = first;
        }
        worker.each([&](int part) { through_products(units(0, part), begin, end, tally, after); });
    }

    // Sums of a stage's products for one tile; they begin with what `carry` holds of a state's gradient.
    template <class S>
    void add_products(S, int i, ptrdiff_t u, int v, int count, ptrdiff_t n, ptrdiff_t first, const T* da, Tally<T>& tally) {
        alignas(64) static const T zeros[8 * width<T>] = {};
        for (int a = 0; a < S::sums; ++a) {
            tally.at[a] = zeros;
            tally.row[a] = 0;
        }
        if (i == 0)
            for (int k = 0; k < Cell::states; ++k)
                if (Cell::grad_sum[k] >= 0) {
                    tally.at[Cell::grad_sum[k]] = carry[k] + first * run.Hp + u;
                    tally.row[Cell::grad_sum[k]] = run.Hp;
                }
        const ptrdiff_t a_row = Cell::slots * run.Hp;
        if (!da) return;
        for (int p = 0; p < S::products; ++p)
            tally.add(panel[i][p], S::product[p].sum, u, v, count, da + n * a_row + S::product[p].index * run.Hp, a_row);
    }

    template <class S>
    void step(S stage, int i, ptrdiff_t s, Range units, ptrdiff_t begin, ptrdiff_t end, Tally<T>& tally, const T* after, T* here) {
        const ptrdiff_t t = run.time_of(s), Hp = run.Hp, count = end - begin;
        const T* kept = run.keep + t * run.keep_time;
        const T* dy = call.dy ? static_cast<const T*>(call.dy) + t * call.dy_time : nullptr;
        const T* prev[max_states] = {};
        const T* next[max_states] = {};
        ptrdiff_t prev_row[max_states] = {};
        for (int k = 0; k < Cell::states; ++k) {
            prev[k] = run.prev(k, s);
            prev_row[k] = run.prev_row(k, s);
            next[k] = run.state[k].after(s, t);
        }
        each_block<T>(units, vectors[i], s & 1, [&](ptrdiff_t u, int v) {
            each_tile(count, max_rows(vectors[i]), [&](ptrdiff_t n, int tile_rows) {
                const ptrdiff_t first = begin + n;
                add_products(stage, i, u, v, tile_rows, n, first, i == 0 ? after : here, tally);
                for (int r = 0; r < tile_rows; ++r) {
                    const ptrdiff_t m = first + r, own = run.own(s, m);
                    const bool idle = run.idle(s, m);
                    const ptrdiff_t length = run.lengths ? run.lengths[m] : run.T_;
                    const bool cut = call.truncate > 0 && own + 1 < length && (own + 1) % call.truncate == 0;
                    for (ptrdiff_t j = 0; j < v * width<T>; j += width<T>) {
                        Row<T> row;
                        for (int a = 0; a < S::sums; ++a) row.acc[a] = tally.at[a] + r * tally.row[a] + j;
                        for (int k = 0; k < Cell::states; ++k) {
                            row.prev[k] = prev[k] + m * prev_row[k] + u + j;
                            row.next[k] = const_cast<T*>(next[k]) + m * run.state[k].row + u + j;
                            row.carry[k] = carry[k] + m * Hp + u + j;
                        }
                        row.da = here + (n + r) * Cell::slots * Hp + u + j;
                        if (idle) {
                            if (i == 0) pass_through(row);
                            continue;
                        }
                        row.keep = const_cast<T*>(kept) + m * Cell::keeps * Hp + u + j;
                        row.unit = run.units + u + j;
                        row.Hp = Hp;
                        row.head = head_mask<T>(run.H - u - j);
                        Vec<T> grad[max_states] = {};
                        if (i == 0) gradients(row, cut, dy ? dy + m * call.dy_row + u + j : nullptr, run.H - u - j, grad);
                        S::template run<true, T>(row, grad);
                    }
                }
            });
        });
    }

    // Gradient of every state after the step: from the steps after it, unless cut, and from the output.
    FASTRNN_INLINE void gradients(const Row<T>& row, bool cut, const T* dy, ptrdiff_t inside, Vec<T>* grad) {
        for (int k = 0; k < Cell::states; ++k) {
            const int sum = Cell::grad_sum[k];
            grad[k] = cut ? Vec<T>{} : load(sum >= 0 ? row.acc[sum] : row.carry[k]);
        }
        if (dy) grad[0] += load_head(dy, inside);
    }

    // A step past a sequence's end passes the states' gradient through.
    void pass_through(const Row<T>& row) {
        for (int k = 0; k < Cell::states; ++k)
            if (Cell::grad_sum[k] >= 0) store(row.carry[k], load(row.acc[Cell::grad_sum[k]]));
        for (int m = 0; m < Cell::slots; ++m) store(row.da + m * run.Hp, Vec<T>{});
    }

    // Gradient of the states before the first step.
    void through_products(Range units, ptrdiff_t begin, ptrdiff_t end, Tally<T>& tally, const T* da) {
        using S = typename std::tuple_element<0, typename Cell::backward::tuple>::type;
        each_block<T>(units, vectors[0], [&](ptrdiff_t u, int v) {
            each_tile(end - begin, max_rows(vectors[0]), [&](ptrdiff_t n, int count) {
                add_products(S{}, 0, u, v, count, n, begin + n, da, tally);
                for (int k = 0; k < Cell::states; ++k) {
                    const int sum = Cell::grad_sum[k];
                    for (int r = 0; r < count; ++r) {
                        const ptrdiff_t m = begin + n + r;
                        const T* from = sum >= 0 ? tally.at[sum] + r * tally.row[sum] : carry[k] + m * run.Hp + u;
                        T* to = static_cast<T*>(call.dstate[k]) + m * run.H + u;
                        for (ptrdiff_t j = 0; j < v * width<T>; j += width<T>)
                            store_head(to + j, load(from + j), run.H - u - j);
                    }
                }
            });
        });
    }

    // Steps that are done, and their `da`: for each of `steps` steps from time `low` on, and each of n sequences.
    struct Chunk {
        const T* da;
        ptrdiff_t low, steps, begin, n;
        bool fresh;
    };

    // A chunk's part of dx, dWx, dWh and the sums over da: products over all of its steps at once.
    void add_weights(const Sums& total, const Chunk& chunk, int part, T* packed) {
        const ptrdiff_t n = chunk.n, row = Cell::slots * run.Hp, D = run.D;
        // A part of units takes some of the steps.
        const int parts = division.by_units ? division.parts : 1, number = division.by_units ? part : 0;
        const ptrdiff_t first = chunk.steps * number / parts, last = chunk.steps * (number + 1) / parts;
        T* dx = static_cast<T*>(call.dx) + ((chunk.low + first) * run.N + chunk.begin) * D;
        const auto packed_input = [&](ptrdiff_t u, int v) { return input.block(u, v, 0); };
        project<T>({chunk.da + first * n * row, n * row, row}, input.depth, packed_input, nullptr, {dx, run.N * D, D}, last - first, n, D);
        const Range units = division.units<T>(run.Hp, gemm_vectors, part);
        for (ptrdiff_t k = 0; k < chunk.steps * n; k += depth) {
            const ptrdiff_t count = chunk.steps * n - k < depth ? chunk.steps * n - k : depth;
            add_rows(total, chunk, units, k, count, chunk.fresh && k == 0, packed);
        }
    }

    void add_rows(const Sums& total, const Chunk& chunk, Range units, ptrdiff_t k0, ptrdiff_t count, bool fresh, T* packed) {
        const ptrdiff_t Hp = run.Hp, row = Cell::slots * Hp, n = chunk.n;
        T* right = packed;
        Left<T> left_x{right + depth * gemm_vectors * width<T>, run.D, count}, left[sources() ? sources() : 1];
        for (int i = 0; i < sources(); ++i) left[i] = {left_x.at + depth * (run.D + i * Hp), run.H, count};
        for (ptrdiff_t k = 0; k < count; ++k) {
            const ptrdiff_t t = chunk.low + (k0 + k) / n, m = chunk.begin + (k0 + k) % n;
            left_x.set_row(k, static_cast<const T*>(call.x) + t * call.x_time + m * call.x_row);
            for (int i = 0; i < Cell::uses; ++i)
                if (source_of(i) >= done(i)) left[source_of(i)].set_row(k, vector(Cell::use[i], t, m));
        }
        for (int slot = 0; slot < Cell::slots; ++slot)
            each_block<T>(units, gemm_vectors, [&](ptrdiff_t u, int v) {
                pack_right(right, chunk.da + k0 * row + slot * Hp + u, row, count, v, total.dslots + slot * Hp + u);
                if (slot < Cell::gates) add_outer(left_x, right, v, total.dWx + slot * Hp + u, gates(), fresh);
                for (int i = 0; i < Cell::uses; ++i)
                    if (Cell::use[i].slot == slot)
                        add_outer(left[source_of(i)], right, v, total.dWh + Cell::use[i].matrix * Hp + u, matrices(), fresh && single_use());
            });
    }

    // Sources that the uses before `use` have.
    static constexpr int done(int use) {
        int count = 0;
        for (int i = 0; i < use; ++i)
            if (source_of(i) + 1 > count) count = source_of(i) + 1;
        return count;
    }

    const T* vector(const Use& use, ptrdiff_t t, ptrdiff_t m) const {
        if (use.kind == Kind::keep) return run.keep + t * run.keep_time + (m * Cell::keeps + use.index) * run.Hp;
        const ptrdiff_t s = run.time_of(t);
        return run.prev(use.index, s) + m * run.prev_row(use.index, s);
    }

    // A panel of da, and its sums added to `sum`.
    static void pack_right(T* to, const T* from, ptrdiff_t row, ptrdiff_t count, int vectors, T* sum) {
        for (int v = 0; v < vectors; ++v) {
            Vec<T> total = load(sum + v * width<T>);
            for (ptrdiff_t k = 0; k < count; ++k) {
                const Vec<T> value = load(from + k * row + v * width<T>);
                store(to + (k * vectors + v) * width<T>, value);
                total += value;
            }
            store(sum + v * width<T>, total);
        }
    }

    // The parts' sums in the order of the parts, without padding.
    void reduce() {
        const ptrdiff_t D = run.D, H = run.H;
        add_parts(static_cast<T*>(call.dWx), &Sums::dWx, D * Cell::gates);
        add_parts(static_cast<T*>(call.dWh), &Sums::dWh, H * Cell::matrices);
        add_parts(static_cast<T*>(call.dslots), &Sums::dslots, Cell::slots);
    }

    void add_parts(T* to, T* Sums::*of, ptrdiff_t count) {
        const ptrdiff_t H = run.H, Hp = run.Hp;
        for (int part = 0; part < division.owners(); ++part) {
            const T* from = sums[part].*of;
            if (from == to) continue;
            for (ptrdiff_t i = 0; i < count; ++i)
                for (ptrdiff_t j = 0; j < H; ++j) to[i * H + j] = (part ? to[i * H + j] : 0) + from[i * Hp + j];
        }
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
