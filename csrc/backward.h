// BPTT of one cell over a batch.
#pragma once

#include <algorithm>

#include "division.h"
#include "gemm.h"
#include "path.h"
#include "run.h"
#include "tally.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class F> class Backward {
    using T = typename F::Number;
    using Item = typename F::Item;

  public:
    explicit Backward(const BackwardCall& call)
        : call(call), run(call), division(call.N, call.path), sweeps(!call.path.packed), chunk(call.path.chunk) {
        run.place(static_cast<T*>(const_cast<void*>(call.saved)), static_cast<T*>(const_cast<void*>(call.y)), call.y_time,
                  call.y_row, true);
        run.units = bias_rows<Cell, T>(memory, call);
        run.place_resets(memory, call);
        const ptrdiff_t N = run.N, H = run.H, Hp = run.Hp, rows = division.most_rows();
        if (run.seen & Flag::hold) {
            zeros = memory.take<T>(std::max(run.D, Hp));
            clear(zeros, std::max(run.D, Hp));
        }
        for (void* gradient : call.dreset)
            if (gradient) clear(static_cast<T*>(gradient), N * H);
        for (int k = 0; k < Cell::states; ++k) {
            carry[k] = memory.take<T>(N * Hp);
            pad_rows(carry[k], static_cast<const T*>(call.dlast[k]), N, H, Hp);
        }
        Cell::backward::each([&](auto stage, int i) {
            vectors[i] = block_vectors<decltype(stage)>(rows, Hp / width<T>, division.by_units ? division.parts : 1);
        });
        if (!sweeps) place_panels();
        da_size = rows * Cell::slots * Hp;
        depth = chunk * rows < gemm_depth ? chunk * rows : gemm_depth;
        own_size = padded<T>(Tally<T>::size() + product_size(rows));
        own = memory.take<T>(own_size * division.parts);
        da = memory.take<T>((chunk + 1) * da_size * division.owners());
        place_sums();
    }

    Outcome execute(Ran& ran) {
        run_parts(division.parts, [this](int part) { pack_share(part); });
        run_workers(division, call.stop, ran, [&](const Worker& worker) { return run_steps(worker); });
        if (stopped) return Outcome::stopped;
        if (!finite) return Outcome::not_finite;
        reduce();
        return Outcome::done;
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
    const bool sweeps;  // the weights are read as they are
    const ptrdiff_t chunk;
    int vectors[Cell::backward::count];
    ptrdiff_t da_size, depth, own_size;
    T *carry[max_states], *own, *da;
    T* zeros;  // stands for every vector of a held step in the weight gradients
    Panel<F> input, panel[Cell::backward::count][max_products] = {};
    Sums sums[max_threads], block[max_threads];
    bool in_blocks;
    std::atomic<bool> finite{true}, stopped{false};

    ptrdiff_t gates() const { return Cell::gates * run.Hp; }
    ptrdiff_t matrices() const { return Cell::matrices * run.Hp; }
    Range units(int i, int part) const { return division.units<T>(run.Hp, vectors[i], part); }
    ptrdiff_t input_columns() const { return padded<T>(run.D); }
    ptrdiff_t right_size() const { return F::parts * F::items(depth) * gemm_vectors * width<T>; }

    ptrdiff_t sweep_row() const { return 4 * run.Hp + width<T>; }

    // Items that one part holds at a time: left sides of the stages, those of dx, or both sides of the weight gradients.
    ptrdiff_t product_size(ptrdiff_t rows) const {
        ptrdiff_t stage = 0;
        for (int i = 0; i < Cell::backward::count; ++i)
            for (int p = 0; p < max_products; ++p) stage += F::left_size(rows, panel[i][p].numbers);
        if (sweeps) stage = rows * sweep_row();
        const ptrdiff_t dx = sweeps ? 0 : F::left_size(chunk * rows, input.numbers);
        const ptrdiff_t weights = right_size() + Left<F>::size(run.D + sources() * run.Hp, depth);
        return std::max({stage, dx, weights});
    }

    void place_panels() {
        const ptrdiff_t H = run.H, Hp = run.Hp;
        input = place<F>(memory, Cell::gates, 1, H, Hp, input_columns());
        Cell::backward::each([&](auto stage, int i) {
            using S = decltype(stage);
            for (int p = 0; p < S::products; ++p) panel[i][p] = place<F>(memory, S::product[p].sources, 1, H, Hp, Hp);
        });
    }

    void pack_share(int part) {
        if (sweeps) return;
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

    ptrdiff_t dWx_size() const { return run.D * gates(); }
    ptrdiff_t dWh_size() const { return run.H * matrices(); }
    ptrdiff_t dslots_size() const { return Cell::slots * run.Hp; }

    // A part's gradients, padded; where sums run over many rows, those of a block of rows beside the total.
    void place_sums() {
        const bool direct = run.Hp == run.H;
        in_blocks = sizeof(T) == sizeof(float) && run.T_ * division.most_rows() > sum_rows;
        const auto own_sums = [&] { return Sums{memory.take<T>(dWx_size()), memory.take<T>(dWh_size()), memory.take<T>(dslots_size())}; };
        for (int part = 0; part < division.owners(); ++part) {
            sums[part] = part || !direct ? own_sums()
                                         : Sums{static_cast<T*>(call.dWx), static_cast<T*>(call.dWh), static_cast<T*>(call.dslots)};
            block[part] = in_blocks ? own_sums() : sums[part];
        }
    }

    void clear_sums(int owner) {
        if (run.T_ * run.N == 0 || in_blocks) clear(sums[owner].dWx, dWx_size());
        if (run.T_ * run.N == 0 || in_blocks) clear(sums[owner].dWh, dWh_size());
        if (in_blocks) clear(sums[owner].dslots, dslots_size());
        clear_block(block[owner]);
    }

    // What products and sums over the rows of a block are added to; where a product is the first, it begins with zeros.
    void clear_block(const Sums& sums) {
        if (!single_use()) clear(sums.dWh, dWh_size());
        clear(sums.dslots, dslots_size());
    }

    // Adds the sums of a block of rows to the total, for one worker's share.
    void add_block(int owner, const Worker& worker) {
        const auto add = [&](T* Sums::*of, ptrdiff_t size) {
            const ptrdiff_t first = size * worker.number() / worker.threads(), last = size * (worker.number() + 1) / worker.threads();
            for (ptrdiff_t i = first; i < last; ++i) (sums[owner].*of)[i] += (block[owner].*of)[i];
        };
        add(&Sums::dWx, dWx_size());
        add(&Sums::dWh, dWh_size());
        add(&Sums::dslots, dslots_size());
    }

    Ran run_steps(Worker worker) {
        Ran ran = worker.note(F::bf16_parts);
        const ptrdiff_t begin = division.begin(worker.first), end = division.end(worker.first);
        const int owner = division.owner(worker.first);
        if (worker.leads()) clear_sums(owner);
        if (begin == end) return ran;
        const Sums& total = block[owner];
        ptrdiff_t rows = 0;  // of the block so far
        Looks looks(run, call);
        const TileSession session;
        Tally<T> tally{};
        tally.scratch = own + worker.first * own_size;
        Item* room = reinterpret_cast<Item*>(tally.scratch + Tally<T>::size());
        T* edge = da + owner * (chunk + 1) * da_size;
        T* all = edge + da_size;
        const ptrdiff_t step_size = (end - begin) * Cell::slots * run.Hp;
        const T* after = nullptr;
        for (ptrdiff_t last = run.T_; last > 0;) {
            const ptrdiff_t first = last > chunk ? last - chunk : 0, low = run.reverse ? run.T_ - last : first;
            for (ptrdiff_t s = last - 1; s >= first; --s, ++ran.steps) {
                if (looks.due() && worker.ended()) {
                    stopped = true;
                    return ran;
                }
                T* here = all + (run.time_of(s) - low) * step_size;
                Cell::backward::each([&](auto stage, int i) {
                    worker.each([&](int part) { step(stage, i, s, units(i, part), begin, end, tally, after, here, room); });
                    ran.packed |= !sweeps;
                    worker.wait();
                });
                after = here;
            }
            const Chunk done{all, low, last - first, begin, end - begin, rows == 0};
            worker.each([&](int part) { add_weights(total, done, part, room); });
            if (done.steps > ran.chunk) ran.chunk = done.steps;
            if (worker.leads()) copy_row(edge, after, step_size);
            worker.wait();
            rows += done.steps * done.n;
            if (in_blocks && (rows >= sum_rows || first == 0)) {
                add_block(owner, worker);
                worker.wait();
                if (worker.leads()) clear_block(total);
                worker.wait();
                rows = 0;
            }
            after = edge;
            last = first;
        }
        worker.each([&](int part) { through_products(units(0, part), begin, end, tally, after, room); });
        if (!session.finite()) finite = false;
        return ran;
    }

    // What a sum of stage `i` begins with.
    template <class S> const T* begin_of(S, int i, int sum, ptrdiff_t m) const {
        for (int k = 0; i == 0 && k < Cell::states; ++k)
            if (Cell::grad_sum[k] == sum) return carry[k] + m * run.Hp;
        return nullptr;
    }

    // The sums of a stage for all sequences of a part, with the matrices as they are.
    template <class S>
    void sweep_sums(S stage, int i, Range units, ptrdiff_t begin, ptrdiff_t count, const T* da, T* to) {
        if (units.last > run.H) units.last = run.H;
        const ptrdiff_t row = Cell::slots * run.Hp;
        for (int a = 0; a < S::sums; ++a)
            for (ptrdiff_t n = 0; n < count; ++n) {
                const T* from = begin_of(stage, i, a, begin + n);
                T* sum = to + n * sweep_row() + a * run.Hp;
                if (from)
                    copy_row(sum + units.first, from + units.first, units.last - units.first);
                else
                    clear(sum + units.first, units.last - units.first);
            }
        for (int p = 0; da && p < S::products; ++p) {
            const Product& product = S::product[p];
            Transposed<T> B{static_cast<const T*>(call.Wh), call.Wh_row, run.H, product.sources, {}, {}};
            for (int s = 0; s < product.sources; ++s) {
                B.left[s] = (product.index + s) * run.Hp;
                B.right[s] = product.matrix[s] * run.H;
            }
            dots(to + product.sum[0] * run.Hp, sweep_row(), Side<T>{da, row}, count, units, B);
        }
    }

    // What the products of a stage take, for all sequences of a part: their left sides, or the finished sums.
    struct Given {
        Side<Item> product[max_products];
        const T* sums;
    };

    template <class S>
    Given prepare(S stage, int i, Range units, ptrdiff_t begin, ptrdiff_t count, const T* da, Item* memory) {
        Given given{};
        if constexpr (F::per_item == 1)
            if (sweeps) {
                sweep_sums(stage, i, units, begin, count, da, memory);
                given.sums = memory;
                return given;
            }
        for (int p = 0; da && p < S::products; ++p) {
            const ptrdiff_t numbers = panel[i][p].numbers;
            given.product[p] = F::rows(da + S::product[p].index * run.Hp, Cell::slots * run.Hp, count, numbers, memory);
            memory += F::left_size(count, numbers);
        }
        return given;
    }

    // The sums of a stage for one tile: `count` sequences of a part from its number n, sequence `first`, on.
    template <class S>
    void add_products(S stage, int i, ptrdiff_t u, int v, int count, ptrdiff_t n, ptrdiff_t first, const T* da, const Given& given, Tally<T>& tally) {
        alignas(64) static const T zeros[8 * width<T>] = {};
        for (int a = 0; a < S::sums; ++a) {
            const T* begin = begin_of(stage, i, a, first);
            tally.at[a] = given.sums ? given.sums + n * sweep_row() + a * run.Hp + u : begin ? begin + u : zeros;
            tally.row[a] = given.sums ? sweep_row() : begin ? run.Hp : 0;
        }
        for (int p = 0; da && !given.sums && p < S::products; ++p)
            tally.add(panel[i][p], S::product[p].sum, u, v, count, given.product[p].from(n));
    }

    template <class S>
    void step(S stage, int i, ptrdiff_t s, Range units, ptrdiff_t begin, ptrdiff_t end, Tally<T>& tally, const T* after, T* here, Item* memory) {
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
        const T* da = i == 0 ? after : here;
        const Given given = prepare(stage, i, units, begin, count, da, memory);
        each_block<T>(units, vectors[i], s & 1, [&](ptrdiff_t u, int v) {
            each_tile(count, max_rows(vectors[i]), [&](ptrdiff_t n, int tile_rows) {
                const ptrdiff_t first = begin + n;
                add_products(stage, i, u, v, tile_rows, n, first, da, given, tally);
                for (int r = 0; r < tile_rows; ++r) {
                    const ptrdiff_t m = first + r;
                    const int now = run.flag(t, m), later = s + 1 < run.T_ ? run.flag(run.time_of(s + 1), m) : 0;
                    const T* entering[max_states];
                    for (int k = 0; k < Cell::states; ++k)
                        entering[k] = now & Flag::reset ? run.reset[k] + m * Hp : prev[k] + m * prev_row[k];
                    for (ptrdiff_t j = 0; j < v * width<T>; j += width<T>) {
                        Row<T> row;
                        for (int a = 0; a < S::sums; ++a) row.acc[a] = tally.at[a] + r * tally.row[a] + j;
                        for (int k = 0; k < Cell::states; ++k) {
                            row.prev[k] = entering[k] + u + j;
                            row.next[k] = const_cast<T*>(next[k]) + m * run.state[k].row + u + j;
                            row.carry[k] = carry[k] + m * Hp + u + j;
                        }
                        row.da = here + (n + r) * Cell::slots * Hp + u + j;
                        Vec<T> grad[max_states] = {};
                        if (i == 0) arriving(row, later, m, u + j, grad);
                        if (now & Flag::hold) {
                            if (i == 0) pass_through(row, grad);
                            continue;
                        }
                        if (i == 0 && dy) grad[0] += load_head(dy + m * call.dy_row + u + j, run.H - u - j);
                        row.keep = const_cast<T*>(kept) + m * Cell::keeps * Hp + u + j;
                        row.unit = run.units + u + j;
                        row.Hp = Hp;
                        row.head = head_mask<T>(run.H - u - j);
                        S::template run<true, T>(row, grad);
                    }
                }
            });
        });
    }

    // Gradient of every state after a step, from the steps after it; `later` are the flags of the next one. That one's
    // products are of zeros if it held the state, and not looked at: weights may be infinite.
    __attribute__((always_inline)) void arriving(const Row<T>& row, int later, ptrdiff_t m, ptrdiff_t u, Vec<T>* grad) const {
        for (int k = 0; k < Cell::states; ++k) {
            const int sum = Cell::grad_sum[k];
            grad[k] = load(sum >= 0 && !(later & Flag::hold) ? row.acc[sum] : row.carry[k]);
            if (!(later & (Flag::reset | Flag::cut))) continue;
            if (later & Flag::reset && call.dreset[k]) {
                T* to = static_cast<T*>(call.dreset[k]) + m * run.H + u;
                store_head(to, load_head(to, run.H - u) + grad[k], run.H - u);
            }
            grad[k] = Vec<T>{};
        }
    }

    // A step at which the state is held passes its gradient through.
    void pass_through(const Row<T>& row, const Vec<T>* grad) const {
        for (int k = 0; k < Cell::states; ++k) store(row.carry[k], grad[k]);
        for (int m = 0; m < Cell::slots; ++m) store(row.da + m * run.Hp, Vec<T>{});
    }

    // Gradient of the states before the first step.
    void through_products(Range units, ptrdiff_t begin, ptrdiff_t end, Tally<T>& tally, const T* da, Item* memory) {
        using S = typename std::tuple_element<0, typename Cell::backward::tuple>::type;
        const Given given = prepare(S{}, 0, units, begin, end - begin, da, memory);
        each_block<T>(units, vectors[0], [&](ptrdiff_t u, int v) {
            each_tile(end - begin, max_rows(vectors[0]), [&](ptrdiff_t n, int count) {
                add_products(S{}, 0, u, v, count, n, begin + n, da, given, tally);
                for (int r = 0; r < count; ++r) {
                    const ptrdiff_t m = begin + n + r;
                    const int first = run.T_ ? run.flag(run.time_of(0), m) : 0;
                    for (ptrdiff_t j = 0; j < v * width<T>; j += width<T>) {
                        Row<T> row;
                        Vec<T> grad[max_states];
                        for (int a = 0; a < S::sums; ++a) row.acc[a] = tally.at[a] + r * tally.row[a] + j;
                        for (int k = 0; k < Cell::states; ++k) row.carry[k] = carry[k] + m * run.Hp + u + j;
                        arriving(row, first, m, u + j, grad);
                        for (int k = 0; k < Cell::states; ++k)
                            store_head(static_cast<T*>(call.dstate[k]) + m * run.H + u + j, grad[k], run.H - u - j);
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

    // A chunk's part of dx and of the weight gradients: products over all of its steps at once.
    void add_weights(const Sums& total, const Chunk& chunk, int part, Item* room) {
        const ptrdiff_t n = chunk.n, row = Cell::slots * run.Hp, D = run.D;
        // A part of units takes some of the steps.
        const int parts = division.by_units ? division.parts : 1, number = division.by_units ? part : 0;
        const ptrdiff_t first = chunk.steps * number / parts, last = chunk.steps * (number + 1) / parts;
        T* dx = static_cast<T*>(call.dx) + ((chunk.low + first) * run.N + chunk.begin) * D;
        const auto packed_input = [&](ptrdiff_t u, int v) { return input.block(u, v, 0); };
        if constexpr (F::per_item == 1)
            if (sweeps) {
                sweep_input(chunk, first, last, dx);
                clear_held(chunk, first, last, dx);
                return add_all_rows(total, chunk, part, room);
            }
        const Rows<const Item> left = factors<F>({chunk.da + first * n * row, n * row, row}, last - first, n, input.numbers, room);
        project<F>(left, input.depth, packed_input, nullptr, {dx, run.N * D, D}, last - first, n, D);
        clear_held(chunk, first, last, dx);
        add_all_rows(total, chunk, part, room);
    }

    // No gradient of the input where the state is held; with infinite weights the product gave others than zeros.
    void clear_held(const Chunk& chunk, ptrdiff_t first, ptrdiff_t last, T* dx) const {
        if (!(run.seen & Flag::hold)) return;
        for (ptrdiff_t t = first; t < last; ++t, dx += run.N * run.D)
            for (ptrdiff_t n = 0; n < chunk.n; ++n)
                if (run.flag(chunk.low + t, chunk.begin + n) & Flag::hold) clear(dx + n * run.D, run.D);
    }

    // The gradient of the input with Wx as it is.
    void sweep_input(const Chunk& chunk, ptrdiff_t first, ptrdiff_t last, T* dx) {
        const ptrdiff_t n = chunk.n, row = Cell::slots * run.Hp, D = run.D;
        Transposed<T> Wx{static_cast<const T*>(call.Wx), call.Wx_row, run.H, Cell::gates, {}, {}};
        for (int g = 0; g < Cell::gates; ++g) {
            Wx.left[g] = g * run.Hp;
            Wx.right[g] = g * run.H;
        }
        // All steps at once, if they follow each other in memory.
        const ptrdiff_t steps = n == run.N ? last - first : 1;
        for (ptrdiff_t t = first; t < last; t += steps, dx += run.N * D) {
            clear(dx, steps * n * D);
            dots(dx, D, Side<T>{chunk.da + t * n * row, row}, steps * n, Range{0, D}, Wx);
        }
    }

    // A chunk's part of the weight gradients and the sums over da.
    void add_all_rows(const Sums& total, const Chunk& chunk, int part, Item* room) {
        const ptrdiff_t n = chunk.n;
        const Range units = division.units<T>(run.Hp, gemm_vectors, part);
        for (ptrdiff_t k = 0; k < chunk.steps * n; k += depth) {
            const ptrdiff_t count = chunk.steps * n - k < depth ? chunk.steps * n - k : depth;
            add_rows(total, chunk, units, k, count, chunk.fresh && k == 0, room);
        }
    }

    void add_rows(const Sums& total, const Chunk& chunk, Range units, ptrdiff_t k0, ptrdiff_t count, bool fresh, Item* right) {
        const ptrdiff_t Hp = run.Hp, row = Cell::slots * Hp;
        const Left<F> left_x{right + right_size(), run.D, count};
        Left<F> left[sources() ? sources() : 1];
        left_x.fill(in_turn(chunk, k0, [&](ptrdiff_t t, ptrdiff_t m) {
            return run.flag(t, m) & Flag::hold ? zeros : static_cast<const T*>(call.x) + t * call.x_time + m * call.x_row;
        }));
        for (int i = 0; i < Cell::uses; ++i) {
            const int source = source_of(i);
            if (source < done(i)) continue;
            left[source] = {left_x.at + Left<F>::size(run.D + source * Hp, depth), run.H, count};
            left[source].fill(in_turn(chunk, k0, [&](ptrdiff_t t, ptrdiff_t m) { return vector(Cell::use[i], t, m); }));
        }
        for (int slot = 0; slot < Cell::slots; ++slot)
            each_block<T>(units, gemm_vectors, [&](ptrdiff_t u, int v) {
                pack_right<F>(right, chunk.da + k0 * row + slot * Hp + u, row, count, v, total.dslots + slot * Hp + u);
                if (slot < Cell::gates) add_outer(left_x, right, v, total.dWx + slot * Hp + u, gates(), fresh);
                for (int i = 0; i < Cell::uses; ++i)
                    if (Cell::use[i].slot == slot)
                        add_outer(left[source_of(i)], right, v, total.dWh + Cell::use[i].matrix * Hp + u, matrices(), fresh && single_use());
            });
    }

    // Gives at(time, sequence) for one row of a chunk after the other, from row k on.
    template <class G> static auto in_turn(const Chunk& chunk, ptrdiff_t k, G at) {
        return [=, t = chunk.low + k / chunk.n, m = k % chunk.n]() mutable {
            const T* row = at(t, chunk.begin + m);
            if (++m == chunk.n) {
                m = 0;
                ++t;
            }
            return row;
        };
    }

    // Sources that the uses before `use` have.
    static constexpr int done(int use) {
        int count = 0;
        for (int i = 0; i < use; ++i)
            if (source_of(i) + 1 > count) count = source_of(i) + 1;
        return count;
    }

    const T* vector(const Use& use, ptrdiff_t t, ptrdiff_t m) const {
        if (run.flag(t, m) & Flag::hold) return zeros;
        if (use.kind == Kind::keep) return run.keep + t * run.keep_time + (m * Cell::keeps + use.index) * run.Hp;
        return run.entering(use.index, run.time_of(t), m);
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
