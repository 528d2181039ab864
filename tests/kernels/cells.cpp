// The engine with cells of the tests as C functions, for test_cpp_cells.py: float64, one instruction set.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <vector>

#include "guarded.h"

#include "forward.h"
#include "backward.h"
#include "generated/elementary.h"
#include "cells_of_the_test.h"

namespace fastrnn {

// Of the surroundings only memory and threads are linked.
void poll() {}
bool tiles_allowed() { return false; }

}  // namespace fastrnn

using namespace fastrnn;
using namespace fastrnn::FASTRNN_VARIANT;

namespace {

// What both calls have in common; `sizes`: T, N, D, H, reverse, parts, by_units, packed, chunk (0: at each step).
void fill(Call& call, const ptrdiff_t* sizes, ptrdiff_t gates, ptrdiff_t matrices, const void* const* arrays,
          const void* const* units, const void* const* reset) {
    call.T = sizes[0];
    call.N = sizes[1];
    call.D = sizes[2];
    call.H = sizes[3];
    call.reverse = int(sizes[4]);
    call.path.parts = call.threads = int(sizes[5]);
    call.path.by_units = sizes[6] != 0;
    call.path.packed = sizes[7] != 0;
    call.bf16_parts = 0;
    call.x = arrays[0];
    call.x_time = call.N * call.D;
    call.x_row = call.D;
    call.Wx = arrays[1];
    call.Wx_row = gates * call.H;
    call.Wh = arrays[2];
    call.Wh_row = matrices * call.H;
    call.Wx_col = call.Wh_col = 1;
    call.bx = arrays[3];
    call.bh = arrays[4];
    call.flags = static_cast<const uint8_t*>(arrays[5]);
    std::memcpy(call.unit, units, sizeof call.unit);
    std::memcpy(call.reset, reset, sizeof call.reset);
}

// Both passes of one cell. `in`: x, Wx, Wh, bx, bh, flags, dy; `out`: y, dx, dWx, dWh, dslots; states are lists.
template <class Cell>
ptrdiff_t run(const ptrdiff_t* sizes, const void* const* in, const void* const* units, const void* const* state,
              const void* const* reset, const void* const* dlast, void* const* out, void* const* last,
              void* const* dstate, void* const* dreset) {
    using F = Plain<double>;
    ForwardCall forward{};
    fill(forward, sizes, Cell::gates, Cell::matrices, in, units, reset);
    forward.path.input = sizes[8] ? Input::chunk : Input::step;
    forward.path.chunk = sizes[8] ? sizes[8] : 1;
    forward.keep = 1;
    forward.y = out[0];
    forward.y_time = forward.N * forward.H;
    forward.y_row = forward.H;
    std::memcpy(forward.state, state, sizeof forward.state);
    std::memcpy(forward.last, last, sizeof forward.last);
    std::vector<double> saved(CallState<Cell, double>(forward).saved_size());
    forward.saved = saved.data();
    BackwardCall backward{};
    fill(backward, sizes, Cell::gates, Cell::matrices, in, units, reset);
    backward.path.chunk = sizes[8] ? sizes[8] : 1;
    backward.y = out[0];
    backward.y_time = forward.y_time;
    backward.y_row = forward.y_row;
    backward.saved = saved.data();
    backward.dy = in[6];
    backward.dy_time = forward.y_time;
    backward.dy_row = forward.y_row;
    std::memcpy(backward.dlast, dlast, sizeof backward.dlast);
    backward.dx = out[1];
    backward.dWx = out[2];
    backward.dWh = out[3];
    backward.dslots = out[4];
    std::memcpy(backward.dstate, dstate, sizeof backward.dstate);
    std::memcpy(backward.dreset, dreset, sizeof backward.dreset);
    if (forward_refusal<Cell, F>(forward) || backward_refusal<F>(backward)) return 0;
    Ran ran;
    return Forward<Cell, F>(forward).execute(ran) == Outcome::done &&
           Backward<Cell, F>(backward).execute(ran) == Outcome::done;
}

}  // namespace

// Runs the cell called `name`; 0 if there is none, or the path cannot be taken.
EXPORT ptrdiff_t test_cell(const char* name, const ptrdiff_t* sizes, const void* const* in, const void* const* units,
                           const void* const* state, const void* const* reset, const void* const* dlast,
                           void* const* out, void* const* last, void* const* dstate, void* const* dreset) {
#define FASTRNN_RUN(cell)                   \
    if (std::strcmp(name, cell::name) == 0) \
        return run<cell>(sizes, in, units, state, reset, dlast, out, last, dstate, dreset);
    FASTRNN_CELLS(FASTRNN_RUN)
    return 0;
}
