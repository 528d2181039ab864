// The forward pass of one cell over a batch.
#pragma once

#include "division.h"
#include "gemm.h"
#include "path.h"
#include "run.h"
#include "tally.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class F> class Forward {
    using T = typename F::Number;
    using Item = typename F::Item;

  public:
    explicit Forward(const ForwardCall& call)
        : call(call), run(call), division(call.N, call.path), keep(call.keep), sweeps(!call.path.packed),
          hoisted(call.path.input == Input::chunk || call.path.input == Input::ahead), beside(call.path.input == Input::ahead), chunk(call.path.chunk) {
        T* saved = keep ? static_cast<T*>(call.saved) : memory.take<T>(run.working_size());
        run.place(saved, static_cast<T*>(call.y), call.y_time, call.y_row, keep);
        run.units = bias_rows<Cell, T>(memory, call);
        run.place_resets(memory, call);
        for (int k = 0; k < Cell::states; ++k)
            pad_rows(run.state[k].first, static_cast<const T*>(call.state[k]), run.N, run.H, run.Hp);
        const ptrdiff_t rows = division.most_rows();
        place_panels(rows);
        packed_size = 0;
        if (hoisted && !sweeps) packed_size = beside ? ahead_rows * ahead_row() : F::parts * F::items(run.D) * gemm_vectors * width<T>;
        own_size = padded<T>(Tally<T>::size() + packed_size + (sweeps ? rows * sweep_row() : left_size(rows)));
        projected_size = hoisted ? (beside ? 2 : 1) * chunk * rows * projected_row() : 0;
        own = memory.take<T>(own_size * division.parts);
        entering_size = run.seen & Flag::reset ? Cell::states * rows * run.Hp : 0;
        entering = memory.take<T>(entering_size * division.parts);
        projected = memory.take<T>(projected_size * division.owners());
        if constexpr (can_project_ahead<F>)
            if (beside) place_ahead();
    }

    Outcome execute(Ran& ran) {
        if (run.N > 0) {
            run_parts(division.parts, [this](int part) { pack_share(part); });
            run_workers(division, call.stop, ran, [&](const Worker& worker) {
                return keep ? run_steps<true>(worker) : run_steps<false>(worker);
            });
        }
        if (stopped) return Outcome::stopped;
        if (!finite) return Outcome::not_finite;
        const ptrdiff_t s = run.T_;
        for (int k = 0; k < Cell::states; ++k)
            for (ptrdiff_t n = 0; n < run.N; ++n)
                copy_row(static_cast<T*>(call.last[k]) + n * run.H, run.prev(k, s) + n * run.prev_row(k, s), run.H);
        return Outcome::done;
    }

  private:
    static constexpr int all_sums[] = {0, 1, 2, 3};
    const ForwardCall& call;
    Workspace memory;
    Run<Cell, T> run;
    const Division division;
    const bool keep;
    const bool sweeps;   // the weights are read as they are
    const bool hoisted;  // the input is projected a chunk of steps at a time
    const bool beside;   // and that of the next chunk beside the products of this one's steps
    const ptrdiff_t chunk;
    int vectors[Cell::forward::count];
    ptrdiff_t packed_size, own_size, entering_size, projected_size;
    T *own, *entering, *projected;
    std::atomic<bool> finite{true}, stopped{false};
    Panel<F> chunk_input[Cell::gates];  // if `beside`: of each gate its columns,
    Ahead<T>* ahead;                    // and what each part is to project
    Panel<F> input[Cell::forward::count], panel[Cell::forward::count][max_products];
    // For each stage the vectors that hold the last units of all its sums, 0 where those have vectors of their own.
    int merged[Cell::forward::count];
    const T* tail_bias[Cell::forward::count];
    // A product's packed columns for them, and the places of the sums that it does not add to, if there are any.
    struct Tail {
        Panel<F> panel;
        bool all;
        typename Simd<T>::Ints others[2];
    };
    Tail tail_input[Cell::forward::count], tail[Cell::forward::count][max_products];

    Matrix<T> Wx() const { return {static_cast<const T*>(call.Wx), call.Wx_row, call.Wx_col}; }
    Matrix<T> Wh() const { return {static_cast<const T*>(call.Wh), call.Wh_row, call.Wh_col}; }
    Matrix<T> block(Matrix<T> W, int m) const { return {W.at + m * run.H * W.col, W.row, W.col}; }

    // Sums of a stage that begin with a gate's projection: the first ones.
    template <class S> static constexpr int gates_of() {
        int gates = 0;
        while (gates < S::sums && S::sum[gates].gate >= 0) ++gates;
        return gates;
    }
    // Calls f(stage number, sum) for every gate.
    template <class G> static void each_gate(G f) {
        Cell::forward::each([&](auto stage, int i) {
            using S = decltype(stage);
            for (int j = 0; j < gates_of<S>(); ++j) f(i, S::sum[j]);
        });
    }
    // Columns of a stage's whole vectors, without the merged ones.
    ptrdiff_t whole(int i) const { return merged[i] ? run.H - run.H % width<T> : run.Hp; }
    Range units(int i, int part) const { return division.units<T>(whole(i), vectors[i], part); }

    // Calls f(stage number, panel, depth, sums, B) for every matrix product, where B(sum) is a matrix.
    template <class G> void each_panel(G f) {
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
            merged[i] = call.path.merged ? merged_vectors<S, T>(run.H) : 0;
            vectors[i] = block_vectors<S>(rows, whole(i) / width<T>, division.by_units ? division.parts : 1, beside ? ahead_columns : most_block_sums);
            if constexpr (F::per_item == 1)
                if (merged[i]) pack_tail<S>(i);
        });
        each_panel([&](int i, Panel<F>& panel, ptrdiff_t depth, int sums, auto B) {
            panel = place_panel(depth, sums, whole(i), B);
        });
        if (beside)
            for (Panel<F>& panel : chunk_input) panel = place<F>(memory, 1, 1, run.D, run.D, run.Hp);
    }

    template <class G> Panel<F> place_panel(ptrdiff_t depth, int sums, ptrdiff_t columns, G B) {
        if constexpr (F::per_item == 1)
            if (sweeps) return in_place<T>(sums, depth, B);
        return place<F>(memory, 1, sums, depth, depth, columns);
    }

    // Projections of a sequence's input at a step, and a vector: rows would often lie 4096 bytes apart.
    ptrdiff_t projected_row() const { return Cell::gates * run.Hp + width<T>; }
    // A step's input, and a vector for the same reason.
    ptrdiff_t ahead_row() const { return padded<T>(run.D) + width<T>; }
    // Sums of all units of a sequence, and a vector as well, which may be read beyond them.
    ptrdiff_t sweep_row() const { return padded<T>(4 * run.H) + width<T>; }

    // Items of the left sides that one part holds at a time: a chunk of the input, or those of a stage.
    ptrdiff_t left_size(ptrdiff_t rows) const {
        const ptrdiff_t input = F::left_size(rows * (hoisted ? chunk : 1), run.D);
        const ptrdiff_t stage = (hoisted ? 0 : input) + max_products * F::left_size(rows, run.H);
        return hoisted && input > stage ? input : stage;
    }

    void pack_share(int part) {
        if (sweeps) return;
        each_panel([&](int i, Panel<F>& panel, ptrdiff_t depth, int, auto B) {
            const Range range = share<T>(whole(i), vectors[i], division.parts, part);
            pack(panel, 1, depth, depth, run.H, range, vectors[i], [&](int, int s) { return B(s); });
        });
        if (!beside) return;
        each_gate([&](int i, Sum sum) {
            pack(chunk_input[sum.gate], 1, run.D, run.D, run.H, share<T>(run.Hp, vectors[i], division.parts, part), 1,
                 [&](int, int) { return block(Wx(), sum.gate); });
        });
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
            Tail tail{{to, depth, depth, 1, 0, {}}, count == S::sums, {}};
            for (ptrdiff_t at = 0; at < columns; ++at) {
                bool other = true;
                for (int b = 0; b < count; ++b) other &= at / units != sum(b);
                tail.others[at / width<T>][at % width<T>] = other ? -1 : 0;
            }
            return tail;
        };
        if (gates)
            tail_input[i] = pack(run.D, gates, [](int b) { return b; }, [&](int b) { return block(Wx(), S::sum[b].gate); });
        for (int p = 0; p < S::products; ++p) {
            const Product& product = S::product[p];
            tail[i][p] = pack(run.H, product.sums, [&](int b) { return product.sum[b]; }, [&](int b) { return block(Wh(), product.matrix[b]); });
        }
    }

    // Memory of one thread: a packed block of Wx, and left sides.
    struct Room {
        Item *packed, *left;
    };

    template <bool KEEP> Ran run_steps(Worker worker) {
        Ran ran = worker.note(F::bf16_parts);
        const ptrdiff_t begin = division.begin(worker.first), end = division.end(worker.first);
        const TileSession session;
        Tally<T> tally{};
        tally.scratch = own + worker.first * own_size;
        const Room room{reinterpret_cast<Item*>(tally.scratch + Tally<T>::size()),
                        reinterpret_cast<Item*>(tally.scratch + Tally<T>::size() + packed_size)};
        T* inputs = projected + division.owner(worker.first) * projected_size;
        Looks looks(run, call);
        const ptrdiff_t at_once = hoisted ? chunk : wave_steps;
        for (ptrdiff_t s = 0; s < run.T_; ++s, ++ran.steps) {
            if (looks.due() && worker.ended()) {
                stopped = true;
                if (call.above) call.above->reached(run.T_);
                break;
            }
            if (call.below && s % at_once == 0) {
                const ptrdiff_t needed = s + (beside ? 2 : 1) * at_once;
                call.below->wait_for(needed < run.T_ ? needed : run.T_, call.stop);
            }
            if (hoisted && s % chunk == 0) worker.each([&](int part) { project_steps(s, begin, end, part, room, inputs, ran); });
            At at = addresses(s, hoisted ? inputs + projected_at(s, end - begin) : nullptr);
            if (run.any_reset(run.time_of(s), begin, end)) enter_reset(at, begin, end, entering + worker.first * entering_size);
            Cell::forward::each([&](auto stage, int i) {
                worker.each([&](int part) {
                    if (beside) tally.ahead = &grant(part, s % chunk * Cell::forward::count + i);
                    step<KEEP>(stage, i, at, units(i, part), begin, end, tally, room.left);
                });
                worker.wait();
            });
            if (run.own_rows) worker.each([&](int part) { write_outputs(s, begin, end, division.units<T>(run.Hp, 1, part)); });
            if (call.above) call.above->reached(s + 1);
        }
        if (!session.finite()) finite = false;
        note_steps(ran);
        return ran;
    }

    // What the steps of a call did; a chunk's projection notes itself.
    void note_steps(Ran& ran) const {
        if (!ran.steps) return;
        ran.packed = !sweeps;
        for (int vectors : merged) ran.merged |= vectors > 0;
        if (hoisted) return;
        ran.input = Input::step;
        ran.chunk = 1;
    }

    // Where the projection of step `s` is: of `count` sequences by time, of the only one by step.
    ptrdiff_t projected_at(ptrdiff_t s, ptrdiff_t count) const {
        const ptrdiff_t number = beside ? s % (2 * chunk) : run.time_of(s) - low_time(s);
        return number * count * projected_row();
    }

    // At the first step of a chunk: projects it, or the next one in the course of its steps.
    void project_steps(ptrdiff_t s, ptrdiff_t begin, ptrdiff_t end, int part, Room room, T* to, Ran& ran) {
        if constexpr (can_project_ahead<F>)
            if (beside) return project_ahead(s, begin, part, to, ran);
        project_chunk(s, begin, end, part, room, to, ran);
    }

    void place_ahead() {
        ahead = memory.take<Ahead<T>>(division.parts);
        for (int part = 0; part < division.parts; ++part) {
            Ahead<T>* const one = new (ahead + part) Ahead<T>;
            each_gate([&](int i, Sum sum) {
                const Range range = units(i, part);
                one->add({chunk_input[sum.gate].block(range.first, 1, 0), run.units + sum.unit * run.Hp + range.first,
                          sum.gate * run.Hp + range.first, (range.last - range.first) / width<T>});
            });
        }
    }

    void project_ahead(ptrdiff_t s, ptrdiff_t begin, int part, T* to, Ran& ran) {
        ran.input = Input::ahead;
        ran.chunk = chunk;
        if (s == 0) {
            start_ahead(0, begin, part, to);
            ahead[part].grant(0, 1);
            ahead[part].run_due();
        }
        if (s + chunk < run.T_) start_ahead(s + chunk, begin, part, to);
    }

    void start_ahead(ptrdiff_t first, ptrdiff_t begin, int part, T* to) {
        const Side<T> rows{own + part * own_size + Tally<T>::size(), ahead_row()};
        for (ptrdiff_t r = 0; r < chunk; ++r) {
            T* row = const_cast<T*>(rows.from(r).at);
            if (first + r < run.T_)
                copy_row(row, static_cast<const T*>(call.x) + run.time_of(first + r) * call.x_time + begin * call.x_row, run.D);
            else
                clear(row, run.D);
        }
        ahead[part].start(rows, run.D, to + projected_at(first, 1), projected_row());
    }

    // The projection ahead, with what is due in turn `turn` of the chunk's steps and their stages.
    Ahead<T>& grant(int part, ptrdiff_t turn) {
        ahead[part].grant(turn, chunk * Cell::forward::count);
        return ahead[part];
    }

    // Least time of the chunk that step `s` is in.
    ptrdiff_t low_time(ptrdiff_t s) const {
        const ptrdiff_t first = s / chunk * chunk, last = first + chunk < run.T_ ? first + chunk : run.T_;
        return run.reverse ? run.T_ - last : first;
    }

    // Wx is packed block by block, into memory that stays in a near cache: a chunk has many rows for each.
    void project_chunk(ptrdiff_t s, ptrdiff_t begin, ptrdiff_t end, int part, Room room, T* to, Ran& ran) {
        const ptrdiff_t low = low_time(s), rest = run.T_ - s, n = end - begin, row = projected_row();
        ptrdiff_t steps = rest < chunk ? rest : chunk, count = n;
        ran.input = Input::chunk;
        if (steps > ran.chunk) ran.chunk = steps;
        Rows<const T> x{static_cast<const T*>(call.x) + low * call.x_time + begin * call.x_row, call.x_time, call.x_row};
        if (n == 1) {  // its steps are the rows
            x = {x.at, 0, call.x_time};
            std::swap(steps, count);
        }
        if constexpr (F::per_item == 1)
            if (sweeps) return sweep_chunk(x, steps, count, part, {to, row, run.Hp});
        const Rows<const Item> left = factors<F>(x, steps, count, run.D, room.left);
        const ptrdiff_t depth = F::items(run.D);
        each_gate([&](int i, Sum sum) {
            const Range range = units(i, part);
            const Matrix<T> B = block(Wx(), sum.gate);
            const auto pack_one = [&](ptrdiff_t u, int v) {
                const ptrdiff_t columns = v * width<T>;
                pack_columns<F>(room.packed, depth * columns, &B, 1, run.D, depth, run.H, range.first + u, columns);
                return room.packed;
            };
            const T* bias = run.units + sum.unit * run.Hp + range.first;
            T* first = to + sum.gate * run.Hp + range.first;
            project<F>(left, depth, pack_one, bias, {first, count * row, row}, steps, count, range.last - range.first);
        });
    }

    // The same with the weights as they are.
    void sweep_chunk(Rows<const T> x, ptrdiff_t steps, ptrdiff_t count, int part, SumRows<T> sums) {
        if (x.step == count * x.row) {
            count *= steps;
            steps = 1;
        }
        Cell::forward::each([&](auto stage, int i) {
            using S = decltype(stage);
            if (!gates_of<S>()) return;
            Range range = units(i, part);
            if (range.last > run.H) range.last = run.H;
            const auto matrix = [&](int s) { return block(Wx(), S::sum[s].gate); };
            const Panel<Whole<T>> panel = in_place<T>(gates_of<S>(), run.D, matrix);
            int gates[4];
            for (int j = 0; j < gates_of<S>(); ++j) {
                gates[j] = S::sum[j].gate;
                T* first = sums.at + gates[j] * sums.sum + range.first;
                const T* bias = run.units + S::sum[j].unit * run.Hp + range.first;
                for (ptrdiff_t r = 0; r < steps * count; ++r) copy_row(first + r * sums.row, bias, range.last - range.first);
            }
            for (ptrdiff_t s = 0; s < steps; ++s) {
                const SumRows<T> here{sums.at + s * count * sums.row, sums.row, sums.sum};
                sweep(panel, gates, Side<T>{x.at + s * x.step, x.row}, count, range, run.H, false, here);
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

    // The entering states of a step, copied to where those that are reset stand beside the others: the products take
    // them at one stride.
    void enter_reset(At& at, ptrdiff_t begin, ptrdiff_t end, T* to) const {
        for (int k = 0; k < Cell::states; ++k) {
            at.prev[k] = to - begin * run.Hp;
            at.prev_row[k] = run.Hp;
            for (ptrdiff_t n = begin; n < end; ++n, to += run.Hp) copy_row(to, run.entering(k, at.s, n), run.Hp);
        }
    }

    // Not inlined: the loop's own values would take the registers that a step of few units needs (a tenth of its time).
    template <bool KEEP, class S>
    __attribute__((noinline)) void step(S stage, int i, const At& at, Range units, ptrdiff_t begin, ptrdiff_t end, Tally<T>& tally, Item* memory) {
        const ptrdiff_t count = end - begin;
        const Sides sides = left_sides(stage, at, begin, count, memory);
        if constexpr (F::per_item == 1)
            if (sweeps) return sweep_step<KEEP>(stage, i, at, sides, units, begin, count, tally, memory);
        each_block<T>(units, vectors[i], at.s & 1, [&](ptrdiff_t u, int v) {
            each_tile(count, max_rows(widest_sums<S>() * vectors[i]), [&](ptrdiff_t n, int rows) {
                block_sums(stage, i, at, sides, u, v, n, rows, tally);
                apply<KEEP>(stage, i, at, u, v, begin + n, rows, tally);
            });
        });
        if constexpr (can_project_ahead<F>)
            if (beside) tally.ahead->run_due();
        if (!merged[i]) return;
        each_tile(count, max_rows(merged[i]), [&](ptrdiff_t n, int rows) {
            tail_sums(stage, i, sides, n, rows, tally);
            apply<KEEP>(stage, i, at, units.last, 1, begin + n, rows, tally);
        });
    }

    // The left sides of a stage's products, of all sequences of a part.
    struct Sides {
        Side<Item> input, product[max_products];
    };

    template <class S> Sides left_sides(S, const At& at, ptrdiff_t begin, ptrdiff_t count, Item* memory) const {
        Sides sides;
        if (!at.projected && S::sum[0].gate >= 0) {
            sides.input = F::rows(at.x + begin * call.x_row, call.x_row, count, run.D, memory);
            memory += F::left_size(count, run.D);
        }
        for (int p = 0; p < S::products; ++p) {
            const Product& product = S::product[p];
            const bool prev = product.kind == Kind::prev;
            const ptrdiff_t row = prev ? at.prev_row[product.index] : Cell::keeps * run.Hp;
            const T* from = prev ? at.prev[product.index] : at.kept + product.index * run.Hp;
            sides.product[p] = F::rows(from + begin * row, row, count, run.H, memory);
            memory += F::left_size(count, run.H);
        }
        return sides;
    }

    // What a sum begins with: the projection of sequence `n` of a part, or a bias.
    const T* begin_of(const At& at, Sum sum, ptrdiff_t n) const {
        const bool from_x = at.projected && sum.gate >= 0;
        return from_x ? at.projected + n * projected_row() + sum.gate * run.Hp : run.units + sum.unit * run.Hp;
    }

    // The same with the matrices as they are.
    template <bool KEEP, class S>
    void sweep_step(S stage, int i, const At& at, const Sides& sides, Range units, ptrdiff_t begin, ptrdiff_t count, Tally<T>& tally, T* memory) {
        if (units.last > run.H) units.last = run.H;
        const ptrdiff_t first = units.first, inside = units.last - first;
        const SumRows<T> sums{memory, sweep_row(), run.H};
        for (int j = 0; j < S::sums; ++j) {
            tally.at[j] = sums.at + j * run.H + first;
            tally.row[j] = sums.row;
            for (ptrdiff_t n = 0; n < count; ++n)
                copy_row(sums.at + n * sums.row + j * run.H + first, begin_of(at, S::sum[j], n) + first, inside);
        }
        const bool backwards = at.s & 1;
        if (!at.projected && S::sum[0].gate >= 0) sweep(input[i], all_sums, sides.input, count, units, run.H, backwards, sums);
        for (int p = 0; p < S::products; ++p)
            sweep(panel[i][p], S::product[p].sum, sides.product[p], count, units, run.H, backwards, sums);
        apply<KEEP>(stage, i, at, first, int((inside + width<T> - 1) / width<T>), begin, int(count), tally);
    }

    // The sums of `rows` sequences of a part from its number `n` on, for v vectors of units from u on.
    template <class S>
    void block_sums(S, int i, const At& at, const Sides& sides, ptrdiff_t u, int v, ptrdiff_t n, int rows, Tally<T>& tally) {
        for (int j = 0; j < S::sums; ++j) {
            tally.at[j] = begin_of(at, S::sum[j], n) + u;
            tally.row[j] = at.projected && S::sum[j].gate >= 0 ? projected_row() : 0;
        }
        if (!at.projected && S::sum[0].gate >= 0) tally.add(input[i], all_sums, u, v, rows, sides.input.from(n));
        for (int p = 0; p < S::products; ++p)
            tally.add(panel[i][p], S::product[p].sum, u, v, rows, sides.product[p].from(n));
    }

    // The same for the units that do not fill a vector: the sums' units stand side by side in `merged` vectors.
    template <class S> void tail_sums(S, int i, const Sides& sides, ptrdiff_t n, int rows, Tally<T>& tally) {
        const ptrdiff_t out_row = merged[i] * width<T>, units = run.H % width<T>;
        Ends<T> ends{{tail_bias[i]}, {0}, {tally.scratch}, out_row};
        const auto add = [&](const Tail& tail, Side<Item> side) {
            add_tail(tail, merged[i], side.from(n), rows, ends, tally.scratch);
        };
        if (S::sum[0].gate >= 0) add(tail_input[i], sides.input);
        for (int p = 0; p < S::products; ++p) add(tail[i][p], sides.product[p]);
        for (int j = 0; j < S::sums; ++j) {
            tally.at[j] = tally.scratch + j * units;
            tally.row[j] = out_row;
        }
    }

    // Adds a product to the merged vectors. One that adds to some of their sums leaves the others as they are: their
    // columns are zeros, but zero times infinity is not a number.
    void add_tail(const Tail& tail, int vectors, Side<Item> side, int rows, Ends<T>& ends, T* scratch) {
        const T* before = ends.begin[0];
        const ptrdiff_t row = ends.out_row, before_row = ends.begin_row[0];
        ends.out[0] = tail.all ? scratch : scratch + most_rows * row;
        multiply(tail.panel, 0, vectors, rows, side, &ends);
        for (int r = 0; r < rows && !tail.all; ++r)
            for (int v = 0; v < vectors; ++v) {
                const ptrdiff_t at = v * width<T>;
                const Vec<T> sum = load(ends.out[0] + r * row + at), kept = load(before + r * before_row + at);
                store(scratch + r * row + at, tail.others[v] ? kept : sum);
            }
        ends.begin[0] = scratch;
        ends.begin_row[0] = row;
    }

    // The elementwise code on the sums.
    template <bool KEEP, class S>
    void apply(S, int i, const At& at, ptrdiff_t u, int v, ptrdiff_t first, int rows, const Tally<T>& tally) {
        const ptrdiff_t t = run.time_of(at.s);
        for (int r = 0; r < rows; ++r) {
            const ptrdiff_t m = first + r;
            T* kept = at.kept + m * Cell::keeps * run.Hp + u;
            const bool held = run.flag(t, m) & Flag::hold;
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
                if (!held)
                    S::template run<KEEP, T>(row, nullptr);
                else if (i == 0)
                    hold<KEEP>(row);
            }
        }
    }

    // A step at which the state is held. What is kept goes into products with zeros: it must be finite.
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
                const Vec<T> value = run.flag(t, n) & Flag::hold ? Vec<T>{} : load(from + n * run.state[0].row + u);
                store_head(y + n * call.y_row + u, value, run.H - u);
            }
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
