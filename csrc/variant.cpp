// The engine for one instruction set: compiled once for each, under the name FASTRNN_VARIANT.
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "forward.h"
#include "backward.h"
#include "generated/elementary.h"
#include "generated/cells.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

template <class Cell, class F> constexpr Kernel kernel() {
    using T = typename F::Element;
    return {
        Cell::name,
        int(sizeof(T)),
        F::bf16_parts,
        [](const Call& call) { return size_t(CallState<Cell, T>(call).saved_size()); },
        {forward_path<Cell, F>, forward_refusal<Cell, F>,
         [](const ForwardCall& call, Ran& ran) { return Forward<Cell, F>(call).execute(ran); }},
        {backward_path<Cell, F>, backward_refusal<F>,
         [](const BackwardCall& call, Ran& ran) { return Backward<Cell, F>(call).execute(ran); }},
    };
}

// An instruction set with bf16 products adds these to the kernels of the instruction sets below it.
#if defined(__AMX_BF16__)
#define FASTRNN_KERNELS(cell) kernel<cell, Split<1>>(), kernel<cell, Split<2>>(), kernel<cell, Split<3>>(),
#elif defined(__AVX512BF16__)
#define FASTRNN_KERNELS(cell) kernel<cell, Split<1>>(),
#else
#define FASTRNN_KERNELS(cell) kernel<cell, Plain<float>>(), kernel<cell, Plain<double>>(),
#endif
static const Kernel kernels[] = {FASTRNN_CELLS(FASTRNN_KERNELS)};

#define FASTRNN_TEXT(x) #x
#define FASTRNN_NAME(x) FASTRNN_TEXT(x)
extern const Variant variant;
const Variant variant = {FASTRNN_NAME(FASTRNN_VARIANT), kernels, int(sizeof kernels / sizeof *kernels)};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
