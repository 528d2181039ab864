// Which path a call takes by its shape, from measurement: T steps of N sequences, D features, H units.
#pragma once

#include <cstddef>

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Whether a forward pass packs the weights; where they are read so few times that packing would cost as much, they are
// read as they are.
constexpr bool worth_packing(ptrdiff_t T, ptrdiff_t N, ptrdiff_t H) {
    if (N == 1 && H >= 64) return T >= 48;
    return N <= 8 ? T >= 8 : T * N > 64;
}

// The same for BPTT, which reads them along their rows.
constexpr bool worth_packing_transposed(ptrdiff_t T, ptrdiff_t N, ptrdiff_t H) { return T * N > (H < 256 ? H / 16 : 16); }

// Whether the weights are read often enough to be split into bf16 numbers, by `rows` sequences a thread.
constexpr bool worth_splitting(ptrdiff_t T, ptrdiff_t rows) { return T >= 8 || T * rows >= 16; }

// Few rows leave the tile registers empty.
constexpr bool worth_tiles(ptrdiff_t rows) { return rows >= 4; }

// Whether six products of bf16 numbers by tiles are quicker than one of float32 numbers. Counted, not measured, for want
// of such a processor: with 16 rows a thread a third of the cycles, with 6 as many.
constexpr bool worth_splitting_in_three(ptrdiff_t T, ptrdiff_t rows, ptrdiff_t H) {
    return rows >= 16 && T * rows >= 64 && H >= 64;
}

// Whether many steps of the input are projected at once: few sequences at a step would read all of Wx for little work.
constexpr bool worth_hoisting(ptrdiff_t T, ptrdiff_t N, ptrdiff_t D) { return N < 8 && D > 4 && T > 1; }

// Whether the input of the next steps is projected while a step of one sequence waits for its weights.
constexpr bool worth_projecting_ahead(ptrdiff_t rows, ptrdiff_t H) { return rows == 1 && H >= 64; }

// Sequences that make it worth to put units that do not fill a vector side by side.
constexpr ptrdiff_t worth_merging = 4;

// Threads that a step can take if its units are divided: each must have work that is worth the wait for the others.
constexpr ptrdiff_t worth_dividing(ptrdiff_t N, ptrdiff_t H, int matrices) { return N * H * H * matrices / 16000; }

// Sequences a thread below which units are divided rather than the batch: the wait counts more than the number of rows.
constexpr ptrdiff_t few = 4;

// Steps of the layer below that a layer waits for at once.
constexpr ptrdiff_t wave_steps = 32;

// Rows of the right side of a product over many steps that are packed at once: a panel of them stays in the
// second-level cache, a tile of the left side in the first.
constexpr ptrdiff_t gemm_depth = 512;

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
