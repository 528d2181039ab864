// Every size by which the engine chooses between two ways, and every size of a block that was chosen by timing.
//
// Figures are of an AMD EPYC (Zen 4, AVX-512, two cores, 32 KB and 1 MB of cache each), LSTM in float32 on one thread,
// and give the time of the way above the threshold relative to that of the way below. Those of 2026-11-24 are what
// `python -m bench.thresholds` prints; those of 2026-11-21 were taken when the way was built. Some say that they were
// never timed.
#pragma once

#include <cstddef>

namespace fastrnn {

// T steps of N sequences, D features, H hidden units; `rows`: sequences of one thread.

// -- Weights: packed, or read where they are --------------------------------------------------------------------------

// Whether a forward pass packs the weights: weights that are read only a few times cost less where they are.
// 2026-11-24, N=1: T=12, 24, 48, 96: 0.9, 0.9, 0.8, 1.0 at H=64; 1.0, 0.8, 0.8, 0.9 at H=256; 1.3, 1.0, 0.8, 0.9 at
// H=512. N=2 to 8: T=8 0.8 to 1.1, T=16 0.7 to 1.0. N=16 to 128, H=128: T*N=32 1.2, 64 1.0 to 1.3, 128 1.0.
constexpr bool worth_packing(ptrdiff_t T, ptrdiff_t N, ptrdiff_t H) {
    if (N == 1 && H >= 64) return T >= 48;
    return N <= 8 ? T >= 8 : T * N > 64;
}

// The same for BPTT, which reads them along their rows. 2026-11-24: T*N=8, 16, 32: 0.95 to 1.06, 0.9 to 1.0, 0.8 to 0.9
// at H=128; 8, 16, 32: 1.25, 1.07, 0.92 at H=512.
constexpr bool worth_packing_transposed(ptrdiff_t T, ptrdiff_t N, ptrdiff_t H) {
    return T * N > (H < 256 ? H / 16 : 16);
}

// Rows of a matrix that are packed at once, where rows are contiguous. 2026-11-21: 4 MB of weights that have left the
// caches in 0.5 to 0.75 ms instead of 0.9 to 1.4 row by row.
constexpr ptrdiff_t pack_rows = 8;

// Rows of a matrix that meet the left side at once, where it is read as it is. Rows are often a multiple of 4096 bytes
// apart: more of them would not fit the ways of a first-level cache. 2026-11-21: 4 no quicker in calls, 16 slower.
constexpr int unpacked_rows = 8;

// -- Input: projected step by step, many steps at once, or ahead of the steps -----------------------------------------

// Whether many steps of the input are projected at once: few sequences a step would read all of Wx for little work.
// 2026-11-24, T=100, H=64: N=1, D=2, 4, 8: 1.0 each; D=64, N=4, 7, 8, 16: 1.0 each. Larger D gain more (2026-11-21).
constexpr bool worth_hoisting(ptrdiff_t T, ptrdiff_t rows, ptrdiff_t D) { return rows < 8 && D > 4 && T > 1; }

// Whether the input of the next steps is projected while a step of one sequence waits for its weights. 2026-11-24,
// D=64: H=32, 48, 64, 128, 256: 1.08, 1.12, 0.86, 0.93, 1.01.
constexpr bool worth_projecting_ahead(ptrdiff_t rows, ptrdiff_t H) { return rows == 1 && H >= 64; }

// Steps that are projected ahead together, and vectors of sums that a tile of the step beside them has at most: both
// fit the registers. 2026-11-21: 8 or 12 steps were no quicker.
constexpr int ahead_rows = 10, ahead_columns = 8;

// -- Blocks -----------------------------------------------------------------------------------------------------------

// Rows of the right side of a product over many steps that are packed at once: a panel of them stays in the
// second-level cache, a tile of the left side in the first. Also the rows of a chunk of steps. 2026-11-24, as the rows
// of a chunk in BPTT, relative to 512: 128, 256, 1024, 2048: 1.05, 1.01, 1.00, 1.01 at N=1, 1.00, 1.00, 1.01, 1.04 at
// N=16.
constexpr ptrdiff_t gemm_depth = 512;

// Rows of a chunk of steps in BPTT where each sequence has weight gradients of its own: more steps in each product, and
// fewer passes over all gradients. 2026-11-24, LSTM, float32, D=H, milliseconds with 512, 1024, 2048, 4096, 8192, 16384
// rows: 31, 25, 25, 19, 19, 25 at T=100, N=32, H=128; 195, 155, 149, 148, 99, 147 at T=400, N=8, H=256.
constexpr ptrdiff_t own_rows = 16 * gemm_depth;

// Rows that a float32 sum of a weight gradient runs over before it is added to the total: the error of one sum over a
// million rows would be a hundred times as large. 2026-11-24: 6e-7 instead of 4e-4 of the largest element (T=1e6, N=1).
constexpr ptrdiff_t sum_rows = 4 * gemm_depth;

// Vectors of hidden units that a block of a stage has at most, and vectors of sums: counted by the registers of a tile,
// never timed.
constexpr int most_block_units = 8, most_block_sums = 16;

// Sequences from which hidden units that do not fill a vector share vectors between the sums. 2026-11-24, T=100: LSTM
// H=100, N=1, 2, 4, 8: 0.94, 0.90, 0.92, 0.91; GRU H=70: 1.00, 0.94, 0.97, 0.95. Fewer sequences gain in long calls;
// short ones would pay for the packing (not timed).
constexpr ptrdiff_t worth_merging = 4;

// Sums under way below which the depth of a product is divided: a fused multiply-add takes four cycles, and a
// processor starts one or two a cycle. Counted, never timed.
constexpr int min_chains = 8;

// -- Products of bf16 terms -------------------------------------------------------------------------------------------

// Whether the weights are read often enough to be split into bf16 terms. 2026-11-24, AVX512-BF16, one part, H=256:
// T*N=4, 8, 16, 32: 0.6 to 0.8 at every one: the thresholds are too careful on this processor.
constexpr bool worth_splitting(ptrdiff_t T, ptrdiff_t rows) { return T >= 8 || T * rows >= 16; }

// Few rows leave the tile registers of AMX empty. Counted, never timed.
constexpr bool worth_tiles(ptrdiff_t rows) { return rows >= 4; }

// Whether six products of bf16 terms by tiles are quicker than one in float32. Counted, never timed: with 16
// rows a thread a third of the cycles, with 6 as many.
constexpr bool worth_splitting_in_three(ptrdiff_t T, ptrdiff_t rows, ptrdiff_t H) {
    return rows >= 16 && T * rows >= 64 && H >= 64;
}

// -- Threads ----------------------------------------------------------------------------------------------------------

// Multiply-adds of a step's recurrent products that make up for a thread's wait at the barriers, where units are
// divided. 2026-11-24, two threads, N=1: H=48, 64, 90, 128, 192: 1.19, 0.83, 0.95, 0.65, 0.66; of these H=90 is the
// first that is divided.
constexpr ptrdiff_t step_work = 16000;

// Sequences a thread below which units are divided rather than the batch: the wait counts more than the rows.
// 2026-11-24, two threads, H=256: N=2, 4, 8, 16, 32: 0.96, 0.77, 0.60 (a disturbed round), 1.00, 1.02.
constexpr ptrdiff_t few_rows = 4;

// Steps that are worth waking a thread for each layer, and steps of the layer below that a layer waits for at once.
// 2026-11-21: two layers of one sequence 1.2 to 2 times as fast; the sizes themselves were never timed.
constexpr ptrdiff_t worth_a_wave = 64, wave_steps = 32;

// StopPoll at a flag before a thread gives up its processor. A worker waits some tenths of a millisecond, as the next
// call is often near; a thread within a call some microseconds, for if the other is not there by then, it may be
// waiting for this processor. 2026-11-21: a call after a pause ran on one thread for milliseconds with fewer.
constexpr int idle_spins = 20000, short_spins = 200;

// Milliseconds between two looks for Ctrl-C, and multiply-adds between two looks at the clock. 2026-11-24: calls of
// seconds end 0.001 to 0.03 s after the signal; steps of N=1, H=20 take as long as without (1.00).
constexpr int poll_milliseconds = 50;
constexpr ptrdiff_t poll_work = 500000;

// -- Memory -----------------------------------------------------------------------------------------------------------

// Bytes of working memory that a thread keeps for its next call, and of what forward passes keep for BPTT that waits
// for the next one. 2026-11-21: keeping 32 MB for a call gained nothing; memory that is taken again saves 10 to 25 % of
// training (LSTM N=50, T=2048: 42 to 27 us a step).
#ifndef __SANITIZE_ADDRESS__
constexpr size_t workspace_bytes = size_t(16) << 20, spare_bytes = size_t(256) << 20;
#else  // it watches the ends of blocks that come from the system, and the use of those that went back
constexpr size_t workspace_bytes = 0, spare_bytes = 0;
#endif

// Bytes from which memory comes from the system page by page; such blocks begin at a huge page. 2026-11-21: 5 to 10 %
// at H >= 256.
constexpr size_t huge_page = size_t(2) << 20;

}  // namespace fastrnn
