// The vocabulary of the generated cells: places of H-vectors, sums, products, stages. See engine/plan.py.
#pragma once

#include "api.h"
#include "simd.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Bounds of a cell, beside `max_states`; codegen/cpp.py has the same and refuses a cell that is beyond them.
constexpr int max_gates = 4, max_stage_sums = 4, max_products = 5, max_sources = 4;

enum class Kind { x, prev, keep, da };

// What a sum begins with: row `unit` of the units, projection of gate `gate`; -1 for none.
struct Sum {
    int unit, gate;
};

// A row of the units: block `gate` of bx, or parameter `param`, or neither (-1), plus blocks `matrix` of bh.
struct Bias {
    int gate, param, matrices;
    int matrix[max_sources];
};

// sums[s] += sources @ matrices: `sources` neighbouring slots from `index` on, block matrix[source * sums + s] of Wx
// where the source is x, else of Wh; transposed where it is `da`.
struct Product {
    Kind kind;
    int index, sources, sums;
    int sum[max_stage_sums];
    int matrix[max_sources * max_stage_sums];
};

// A vector that stands on the left of weight gradients: a state that enters a step, or a kept vector.
struct Vector {
    Kind kind;
    int index;
};

// A term of the weight gradient: dWh[matrix] += vector.T @ da[slot]; `vector` is one of the cell's.
struct Use {
    int slot, vector, matrix;
};

// Where the values of one sequence and one vector of units stand.
template <class T> struct Row {
    const T* acc[max_stage_sums];
    const T* prev[max_states];
    T* next[max_states];
    T* carry[max_states];
    T* keep;
    T* da;
    const T* unit;
    ptrdiff_t Hp;
    typename Simd<T>::Ints head;  // the places of the vector that are units
};

// Whether a stage is within the bounds; the compiler rejects a list of sums or matrices that is longer than its array.
template <class S> constexpr bool fits() {
    bool fits = S::sums <= max_stage_sums && S::products <= max_products;
    for (int p = 0; p < S::products; ++p)
        fits &= S::product[p].sums <= max_stage_sums && S::product[p].sources <= max_sources;
    return fits;
}

// Gates whose projections begin a forward stage's sums: the first ones.
template <class S> constexpr int gates_of() {
    return S::products > 0 && S::product[0].kind == Kind::x ? S::product[0].sums : 0;
}

template <class... S> struct Stages {
    using first = std::tuple_element_t<0, std::tuple<S...>>;
    static constexpr int count = sizeof...(S);
    static_assert((fits<S>() && ...), "a stage has more sums or products than cell.h allows");
    // Calls f(stage, number) for each.
    template <class F> FASTRNN_INLINE void each(F f) {
        int i = 0;
        (f(S{}, i++), ...);
    }
};

template <class F, int... I> FASTRNN_INLINE void each_constant(std::integer_sequence<int, I...>, F f) {
    (f(std::integral_constant<int, I>{}), ...);
}

// Calls f(p) for every product of a stage; p is a constant.
template <class S, class F> FASTRNN_INLINE void each_product(F f) {
    each_constant(std::make_integer_sequence<int, S::products>{}, f);
}

// Calls f(stage number, sum) for every gate.
template <class Stages, class F> FASTRNN_INLINE void each_gate(F f) {
    Stages::each([&](auto stage, int i) {
        using S = decltype(stage);
        for (int a = 0; a < gates_of<S>(); ++a) f(i, S::sum[a]);
    });
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
