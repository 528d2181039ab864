// The engine for one instruction set: compiled once for each, with FASTRNN_VARIANT naming it.
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "backward.h"
#include "forward.h"
#include "generated/elementary.h"
#include "generated/cells.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class T> constexpr Kernel kernel() {
    return {
        Cell::name,
        int(sizeof(T)),
        [](const Call& call) { return size_t(Run<Cell, T>(call).saved_size()); },
        [](const Call& call) { return Division(call, Cell::matrices).parts; },
        [](const ForwardCall& call) { Forward<Cell, T>(call).execute(); },
        [](const BackwardCall& call) { Backward<Cell, T>(call).execute(); },
    };
}

#define FASTRNN_BOTH(cell) kernel<cell, float>(), kernel<cell, double>(),
static const Kernel kernels[] = {FASTRNN_CELLS(FASTRNN_BOTH)};

#define FASTRNN_TEXT(x) #x
#define FASTRNN_NAME(x) FASTRNN_TEXT(x)
extern const Variant variant;
const Variant variant = {FASTRNN_NAME(FASTRNN_VARIANT), kernels, int(sizeof kernels / sizeof *kernels)};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
