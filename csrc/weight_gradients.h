// The gradients of the parameters: products and sums over the steps of a chunk, accumulated over all chunks.
//
//     dWx += x[t]^T da[t]                    x       in   (T, N, D), rows contiguous
//     dWh[m] += vector[t]^T da[t]            vector  in   an entering state or a kept vector, (N, H) by time
//     dslots += da[t], summed over n         da      in   [t in chunk][n][slots][Hp]
//
// Or, where each sequence is to have gradients of its own: dWx (N, D, gates, H) and so on, sums over its steps alone.
//
// Where the state is held `da` is 0 and all vectors count as zeros, whatever they contain. dWx (D, gates, H),
// dWh (H, matrices, H) and dslots (slots, H) are written once, at the end: until then each owner accumulates in memory
// of its own, in rows of Hp (the first one in the outputs themselves if Hp is H). All three are null if not needed.
#pragma once

#include <iterator>

#include "gemm.h"
#include "input.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class F> class WeightGradients {
    using T = typename F::Element;
    using Item = typename F::Item;

  public:
    WeightGradients(const BackwardCall& call, const CallState<Cell, T>& run, Workspace& memory)
        : call(call), run(run), split(run.split), each(call.per_sequence),
          depth(std::min(call.path.chunk * (each ? 1 : split.most_rows()), gemm_depth)),
          in_blocks(call.dWx && sizeof(T) == sizeof(float) && run.T_ * (each ? 1 : split.most_rows()) > sum_rows) {
        if (!call.dWx) return;
        const bool direct = run.Hp == run.H;
        const Sums given{static_cast<T*>(call.dWx), static_cast<T*>(call.dWh), static_cast<T*>(call.dslots)};
        const auto own_sums = [&](ptrdiff_t count) {
            return Sums{memory.take<T>(count * dWx_size()), memory.take<T>(count * dWh_size()),
                        memory.take<T>(count * dslots_size())};
        };
        for (int part = 0; part < split.owners(); ++part) {
            const bool in_place = direct && (each || part == 0);
            sums[part] = in_place ? number(given, each ? split.begin(part) : 0) : own_sums(of_owner(part));
            block[part] = in_blocks ? own_sums(of_owner(part)) : sums[part];
        }
        if (!(run.seen & Flag::hold)) return;
        zeros = memory.take<T>(std::max(run.D, run.Hp));
        clear(zeros, std::max(run.D, run.Hp));
    }

    // Scratch items that a part needs: both operands of a product.
    ptrdiff_t room() const { return right_size() + Left<F>::size(run.D + Cell::vectors * run.Hp, depth); }

    // Called by the worker that leads its sequences.
    void start(int owner) {
        if (!call.dWx) return;
        const bool untouched = run.T_ * run.N == 0;
        const ptrdiff_t count = of_owner(owner);
        if (untouched || in_blocks) clear(sums[owner].dWx, count * dWx_size());
        if (untouched || in_blocks) clear(sums[owner].dWh, count * dWh_size());
        if (in_blocks) clear(sums[owner].dslots, count * dslots_size());
        clear_block(owner);
    }

    // Adds the share of a part of a chunk; `fresh`: nothing was added to the block of rows yet.
    void add(const Done<T>& done, bool fresh, int part, Item* room) const {
        if (!call.dWx) return;
        const Sums& total = block[split.owner(part)];
        const Range units = split.units<T>(run.Hp, gemm_vectors, part);
        if (!each) return add_all(total, done, 1, units, fresh, room);
        for (ptrdiff_t m = 0; m < done.n; ++m) {
            const Done<T> one{done.da + m * Cell::slots * run.Hp, done.low, done.steps, done.begin + m, 1};
            add_all(number(total, m), one, done.n, units, fresh, room);
        }
    }

    // Rows that a chunk adds to a sum.
    ptrdiff_t rows(const Done<T>& done) const { return each ? done.steps : done.steps * done.n; }

    // Whether a block of `rows` rows is long enough for one float32 sum, which is then added to the total.
    bool full(ptrdiff_t rows, bool last) const { return in_blocks && (rows >= sum_rows || last); }
    void add_block(int owner, const Worker& worker) const {
        const auto add = [&](T* Sums::* of, ptrdiff_t size) {
            const ptrdiff_t last = size * (worker.number() + 1) / worker.threads();
            for (ptrdiff_t i = size * worker.number() / worker.threads(); i < last; ++i)
                (sums[owner].*of)[i] += (block[owner].*of)[i];
        };
        const ptrdiff_t count = of_owner(owner);
        add(&Sums::dWx, count * dWx_size());
        add(&Sums::dWh, count * dWh_size());
        add(&Sums::dslots, count * dslots_size());
        worker.wait();
        if (worker.leads()) clear_block(owner);
        worker.wait();
    }

    // Adds up the sums of the parts in their order, and drops the padding.
    void reduce() const {
        if (!call.dWx) return;
        add_parts(static_cast<T*>(call.dWx), &Sums::dWx, run.D * Cell::gates);
        add_parts(static_cast<T*>(call.dWh), &Sums::dWh, run.H * Cell::matrices);
        add_parts(static_cast<T*>(call.dslots), &Sums::dslots, Cell::slots);
    }

  private:
    struct Sums {
        T* dWx;
        T* dWh;
        T* dslots;
    };
    const BackwardCall& call;
    const CallState<Cell, T>& run;
    const ThreadSplit& split;
    const bool each;        // whether each sequence has sums of its own
    const ptrdiff_t depth;  // rows of one product
    const bool in_blocks;   // float32 sums run over a block of rows and are then added to the total
    Sums sums[max_threads], block[max_threads];  // of each owner, or of its first sequence, the next ones' behind it
    T* zeros;                                    // read instead of a vector where the state is held

    ptrdiff_t dWx_size() const { return run.D * Cell::gates * run.Hp; }
    ptrdiff_t dWh_size() const { return run.H * Cell::matrices * run.Hp; }
    ptrdiff_t dslots_size() const { return Cell::slots * run.Hp; }
    // Sums that an owner has.
    ptrdiff_t of_owner(int owner) const { return each ? split.end(owner) - split.begin(owner) : 1; }
    Sums number(const Sums& first, ptrdiff_t m) const {
        return {first.dWx + m * dWx_size(), first.dWh + m * dWh_size(), first.dslots + m * dslots_size()};
    }
    ptrdiff_t right_size() const { return F::parts * F::items(depth) * gemm_vectors * width<T>; }

    // Whether every matrix is in exactly one product (it is in at least one): its gradient then begins with that
    // product.
    static constexpr bool single_use = Cell::uses == Cell::matrices;

    // Clears what the sums of a block are added to; products that are the first to write need no zeros.
    void clear_block(int owner) const {
        if (!single_use) clear(block[owner].dWh, of_owner(owner) * dWh_size());
        clear(block[owner].dslots, of_owner(owner) * dslots_size());
    }

    // `apart`: rows of `da` from one row of `done` to the next.
    void add_all(const Sums& total, const Done<T>& done, ptrdiff_t apart, Range units, bool fresh, Item* room) const {
        for (ptrdiff_t k = 0; k < done.steps * done.n; k += depth) {
            const ptrdiff_t count = std::min(done.steps * done.n - k, depth);
            add_rows(total, done, apart, units, k, count, fresh && k == 0, room);
        }
    }

    void add_rows(const Sums& total, const Done<T>& done, ptrdiff_t apart, Range units, ptrdiff_t k0, ptrdiff_t count,
                  bool fresh, Item* right) const {
        const ptrdiff_t Hp = run.Hp, row = apart * Cell::slots * Hp;
        const Left<F> left_x{right + right_size(), run.D, count};
        Left<F> left[std::size(Cell::vector)];
        left_x.fill(in_turn(
            done, k0, [x = run.x, time = run.x_time](ptrdiff_t t, ptrdiff_t n) { return x.from(n).at + t * time; }));
        for (int i = 0; i < Cell::vectors; ++i) {
            left[i] = {left_x.at + Left<F>::size(run.D + i * Hp, depth), run.H, count};
            left[i].fill(in_turn(done, k0, [&](ptrdiff_t t, ptrdiff_t n) { return vector(Cell::vector[i], t, n); }));
        }
        for (int slot = 0; slot < Cell::slots; ++slot)
            each_block<T>(units, gemm_vectors, false, [&](ptrdiff_t u, int v) {
                pack_right<F>(right, done.da + k0 * row + slot * Hp + u, row, count, v, total.dslots + slot * Hp + u);
                if (slot < Cell::gates) add_outer(left_x, right, v, total.dWx + slot * Hp + u, Cell::gates * Hp, fresh);
                for (int i = 0; i < Cell::uses; ++i)
                    if (Cell::use[i].slot == slot) {
                        T* to = total.dWh + Cell::use[i].matrix * Hp + u;
                        add_outer(left[Cell::use[i].vector], right, v, to, Cell::matrices * Hp, fresh && single_use);
                    }
            });
    }

    // A function that returns at(time, sequence) for the rows of a chunk in turn, from row k on; zeros where the state
    // is held.
    template <class G> auto in_turn(const Done<T>& done, ptrdiff_t k, G at) const {
        const bool any = run.seen & Flag::hold;
        return [=, t = done.low + k / done.n, m = k % done.n, begin = done.begin, count = done.n]() mutable {
            const ptrdiff_t n = begin + m;
            const T* row = any && run.flag(t, n) & Flag::hold ? zeros : at(t, n);
            if (++m == count) {
                m = 0;
                ++t;
            }
            return row;
        };
    }

    const T* vector(const Vector& of, ptrdiff_t t, ptrdiff_t n) const {
        if (of.kind == Kind::keep) return run.keep + t * run.keep_time + (n * Cell::keeps + of.index) * run.Hp;
        return run.entering(of.index, run.time_of(t), n);
    }

    void add_parts(T* to, T* Sums::* of, ptrdiff_t count) const {
        const ptrdiff_t H = run.H, Hp = run.Hp;
        for (int part = 0; part < split.owners(); ++part) {
            const T* from = sums[part].*of;
            if (each) to += part ? of_owner(part - 1) * count * H : 0;
            if (from == to) continue;
            const bool more = part && !each;
            for (ptrdiff_t i = 0; i < of_owner(part) * count; ++i)
                for (ptrdiff_t j = 0; j < H; ++j) to[i * H + j] = (more ? to[i * H + j] : 0) + from[i * Hp + j];
        }
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
