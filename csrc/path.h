// Chooses the path of a call: one pure function for each direction, of sizes, strides, threads and precision.
#pragma once

#include <algorithm>

#include "merged.h"
#include "project_ahead.h"
#include "thread_split.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// How threads share the work: by sequences, or by units if there are few sequences and the matrices are large enough to
// make up for the barriers.
inline Path share_work(const Call& call, int matrices) {
    const ptrdiff_t N = call.N, threads = call.threads < max_threads ? call.threads : max_threads;
    const ptrdiff_t worth = N * call.H * call.H * matrices / step_work;
    const ptrdiff_t of_units = worth < threads ? worth : threads;
    const ptrdiff_t of_sequences = N < 1 ? 1 : N < threads ? N : threads;
    Path path;
    path.by_units = of_units > 1 && of_units >= of_sequences && N < few_rows * of_units;
    path.parts = int(path.by_units ? of_units : of_sequences);
    return path;
}

// What both directions choose alike; `packs`: whether to pack weights that could be read in place.
template <class Cell, class F> Path shared_path(const Call& call, bool packs) {
    Path path = share_work(call, Cell::matrices);
    if (F::gains(call.T, ThreadSplit(call.N, path).most_rows(), call.H)) path.bf16_parts = F::bf16_parts;
    path.packed = F::per_item > 1 || !call.unit_column_stride() || packs;
    return path;
}

template <class Cell, class F> Path forward_path(const Call& call) {
    const ptrdiff_t T = call.T, H = call.H;
    Path path = shared_path<Cell, F>(call, worth_packing(T, call.N, H));
    const ptrdiff_t rows = ThreadSplit(call.N, path).most_rows();
    path.input = Input::step;
    path.chunk = 1;
    if (worth_hoisting(T, rows, call.D)) {
        const bool ahead = can_project_ahead<F> && path.packed && worth_projecting_ahead(rows, H);
        path.input = ahead ? Input::ahead : Input::chunk;
        path.chunk = ahead ? ahead_rows : std::min(T, (gemm_depth + rows - 1) / rows);
    }
    path.merged = F::per_item == 1 && path.packed && path.input == Input::step && !path.by_units &&
                  rows >= worth_merging && can_merge<Cell, typename F::Element>(H);
    return path;
}

template <class Cell, class F> Path backward_path(const Call& call) {
    Path path = shared_path<Cell, F>(call, worth_packing_transposed(call.T, call.N, call.H));
    const ptrdiff_t rows = ThreadSplit(call.N, path).most_rows();
    ptrdiff_t most = gemm_depth / rows;
    // Each sequence's product needs a depth of its own.
    if (call.per_sequence) most = std::min(gemm_depth, own_rows / rows);
    path.chunk = std::max<ptrdiff_t>(1, std::min(call.T, most));
    return path;
}

template <class F> const char* shared_refusal(const Call& call) {
    const Path& path = call.path;
    const ptrdiff_t most = path.by_units ? max_threads : std::min<ptrdiff_t>(max_threads, call.N > 1 ? call.N : 1);
    if (path.parts < 1 || path.parts > most)
        return "parts: from 1 to the number of sequences, or of 64 where units are divided";
    if (path.chunk < 1 || (path.chunk > call.T && path.input != Input::ahead))
        return "chunk: from 1 to the number of steps";
    if (path.bf16_parts != F::bf16_parts) return "bf16_parts: those of this kernel";
    if (!path.packed && F::per_item > 1) return "packed: operands are split while they are packed";
    if (!path.packed && !call.unit_column_stride()) return "packed: rows of the weights are not contiguous";
    return nullptr;
}

template <class Cell, class F> const char* forward_refusal(const Call& call) {
    const Path& path = call.path;
    if (const char* why = shared_refusal<F>(call)) return why;
    if (path.input == Input::none) return "input: step, chunk or ahead";
    if (path.input == Input::step && path.chunk != 1) return "chunk: 1 where each step projects its own input";
    if (path.input == Input::ahead) {
        if (!can_project_ahead<F>) return "input: this kernel projects nothing ahead";
        if (!path.packed || ThreadSplit(call.N, path).most_rows() != 1)
            return "input: ahead are packed weights and one sequence a thread";
        if (path.chunk != ahead_rows) return "chunk: ten steps are projected ahead";
    }
    if (path.merged && (F::per_item > 1 || !path.packed || path.input != Input::step || path.by_units))
        return "merged: of float32 and float64 elements, packed, where units are not divided and each step projects "
               "its "
               "input";
    if (path.merged && !can_merge<Cell, typename F::Element>(call.H)) return "merged: the units fill the vectors";
    return nullptr;
}

template <class F> const char* backward_refusal(const Call& call) {
    const Path& path = call.path;
    if (path.input != Input::none || path.merged) return "input, merged: of the forward pass";
    return shared_refusal<F>(call);
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
