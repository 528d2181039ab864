// Every size by which the engine chooses between two ways, and every size of a block that was chosen by timing.
#pragma once

#include <cstddef>

namespace fastrnn {

// T steps of N sequences, D features, H hidden units; `rows`: sequences of one thread.

// -- Weights: packed, or read where they are --------------------------------------------------------------------------

// Whether a forward pass packs the weights: weights that are read only a few times cost less where they are.
constexpr bool worth_packing(ptrdiff_t T, ptrdiff_t N, ptrdiff_t H) {
    if (N == 1 && H >= 64) return T >= 48;
    return N <= 8 ? T >= 8 : T * N > 64;
}

// The same for BPTT, which reads them along their rows.
constexpr bool worth_packing_transposed(ptrdiff_t T, ptrdiff_t N, ptrdiff_t H) {
    return T * N > (H < 256 ? H / 16 : 16);
}

// Rows of a matrix that are packed at once, where rows are contiguous.
constexpr ptrdiff_t pack_rows = 8;

// Rows of a matrix that meet the left side at once, where it is read as it is. Rows are often a multiple of 4096 bytes
// apart: more of them would not fit the ways of a first-level cache.
constexpr int unpacked_rows = 8;

// -- Input: projected step by step, many steps at once, or ahead of the steps -----------------------------------------

// Whether many steps of the input are projected at once: few sequences a step would read all of Wx for little work.
constexpr bool worth_hoisting(ptrdiff_t T, ptrdiff_t rows, ptrdiff_t D) { return rows < 8 && D > 4 && T > 1; }

// Whether the input of the next steps is projected while a step of one sequence waits for its weights.
constexpr bool worth_projecting_ahead(ptrdiff_t rows, ptrdiff_t H) { return rows == 1 && H >= 64; }

// Steps that are projected ahead together, and vectors of sums that a tile of the step beside them has at most.
constexpr int ahead_rows = 10, ahead_columns = 8;

// -- Blocks -----------------------------------------------------------------------------------------------------------

// Rows of the right side of a product over many steps that are packed at once: a panel of them stays in the
// second-level cache, a tile of the left side in the first. Also the rows of a chunk of steps.
constexpr ptrdiff_t gemm_depth = 512;

// Rows that a float32 sum of a weight gradient runs over before it is added to the total: the error of one sum over a
// million rows would be a hundred times as large.
constexpr ptrdiff_t sum_rows = 4 * gemm_depth;

// Vectors of hidden units that a block of a stage has at most, and vectors of sums.
constexpr int most_block_units = 8, most_block_sums = 16;

// Sequences from which hidden units that do not fill a vector share vectors between the sums.
constexpr ptrdiff_t worth_merging = 4;

// Sums under way below which the depth of a product is divided: a fused multiply-add takes four cycles, and a
// processor starts one or two a cycle.
constexpr int min_chains = 8;

// -- Products of bf16 numbers -----------------------------------------------------------------------------------------

// Whether the weights are read often enough to be split into bf16 numbers.
constexpr bool worth_splitting(ptrdiff_t T, ptrdiff_t rows) { return T >= 8 || T * rows >= 16; }

// Few rows leave the tile registers of AMX empty. Counted, never timed.
constexpr bool worth_tiles(ptrdiff_t rows) { return rows >= 4; }

// Whether six products of bf16 numbers by tiles are quicker than one of float32 numbers. Counted, never timed: with 16
// rows a thread a third of the cycles, with 6 as many.
constexpr bool worth_splitting_in_three(ptrdiff_t T, ptrdiff_t rows, ptrdiff_t H) {
    return rows >= 16 && T * rows >= 64 && H >= 64;
}

// -- Threads ----------------------------------------------------------------------------------------------------------

// Multiply-adds of a step's recurrent products that make up for a thread's wait at the barriers, where units are
// divided.
constexpr ptrdiff_t step_work = 16000;

// Sequences a thread below which units are divided rather than the batch: the wait counts more than the rows.
constexpr ptrdiff_t few_rows = 4;

// Steps that are worth waking a thread for each layer, and steps of the layer below that a layer waits for at once.
constexpr ptrdiff_t worth_a_wave = 64, wave_steps = 32;

// Looks at a flag before a thread gives up its processor. A worker waits some tenths of a millisecond, as the next call
// is often near; a thread within a call some microseconds, for if the other is not there by then, it may be waiting for
// this processor.
constexpr int idle_spins = 20000, short_spins = 200;

// Milliseconds between two looks for Ctrl-C, and multiply-adds between two looks at the clock.
constexpr int poll_milliseconds = 50;
constexpr ptrdiff_t poll_work = 500000;

// -- Memory -----------------------------------------------------------------------------------------------------------

// Bytes of working memory that a thread keeps for its next call, and of what forward passes keep for BPTT that waits
// for the next one.
constexpr size_t workspace_bytes = size_t(16) << 20, spare_bytes = size_t(256) << 20;

// Bytes from which memory comes from the system page by page; such blocks begin at a huge page.
constexpr size_t huge_page = size_t(2) << 20;

}  // namespace fastrnn
