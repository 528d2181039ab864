// The operations of cells as C functions of arrays, for test_cpp_operations.py: one instruction set.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "guarded.h"

#include "simd.h"
#include "subnormals.h"
#include "generated/elementary.h"
#include "operations_of_the_test.h"

using namespace fastrnn;
using namespace fastrnn::FASTRNN_VARIANT;

namespace {

// out = f(operands) for `size` numbers, in the floating-point mode of a kernel.
template <class T, class F, size_t... I>
void apply(F f, ptrdiff_t size, const void* const* operands, void* out, std::index_sequence<I...>) {
    const FlushSubnormals flush;
    for (ptrdiff_t i = 0; i < size; i += width<T>) {
        const ptrdiff_t left = size - i;
        store_head(static_cast<T*>(out) + i, f(load_head(static_cast<const T*>(operands[I]) + i, left)...), left);
    }
}

template <class T> bool call(const char* name, ptrdiff_t size, const void* const* operands, void* out) {
#define FASTRNN_CALL(operation, operands_of_it)                                  \
    if (!std::strcmp(name, #operation)) {                                        \
        apply<T>([](auto... v) { return operation(v...); }, size, operands, out, \
                 std::make_index_sequence<operands_of_it>{});                    \
        return true;                                                             \
    }
    FASTRNN_OPERATIONS(FASTRNN_CALL)
    return false;
}

}  // namespace

// Whether there is such an operation; `bytes`: of a number.
EXPORT ptrdiff_t test_operation(const char* name, ptrdiff_t bytes, ptrdiff_t size, const void* const* operands,
                                void* out) {
    return bytes == 4 ? call<float>(name, size, operands, out) : call<double>(name, size, operands, out);
}
