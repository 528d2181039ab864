// What the generated cells are written in: stages, their sums and products, and the addresses of H-vectors. See
// engine/plan.py.
#pragma once

#include "api.h"
#include "simd.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// Limits of a cell, besides `max_states`; codegen/cpp.py has the same ones and refuses a cell that exceeds them.
constexpr int max_gates = 4, max_stage_sums = 4, max_products = 5, max_sources = 4;

enum class Kind { x, prev, keep, da };

// Initial value of a sum: row `unit` of CallState::units, or the projection of gate `gate`, which includes its bias; -1
// for none.
struct Sum {
    int unit, gate;
};

// A row of CallState::units: block `gate` of bx, or per-unit parameter `param`, or neither (-1), plus blocks `matrix`
// of bh.
struct Bias {
    int gate, param, matrices;
    int matrix[max_sources];
};

// sum[s] += source vectors @ matrices. The vectors are `sources` neighbours from `index` on; source k meets
// block matrix[k * sums + s] of Wx if the kind is x, else of Wh, transposed if it is `da`.
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

// Addresses of the values of one sequence and one vector of units.
template <class T> struct Row {
    const T* acc[max_stage_sums];
    const T* prev[max_states];
    T* next[max_states];
    T* carry[max_states];
    T* keep;
    T* da;
    const T* unit;
    ptrdiff_t Hp;
    typename Simd<T>::Ints head;  // lanes that are hidden units, not padding
};

// Whether a stage is within the limits; lists of sums or matrices that are too long for their array do not compile.
template <class S> constexpr bool fits() {
    bool fits = S::sums <= max_stage_sums && S::products <= max_products;
    for (int p = 0; p < S::products; ++p)
        fits &= S::product[p].sums <= max_stage_sums && S::product[p].sources <= max_sources;
    return fits;
}

// Number of gates projected in a forward stage: its first sums.
template <class S> constexpr int gates_of() {
    return S::products > 0 && S::product[0].kind == Kind::x ? S::product[0].sums : 0;
}

template <class... S> struct Stages {
    using first = std::tuple_element_t<0, std::tuple<S...>>;
    static constexpr int count = sizeof...(S);
    static_assert((fits<S>() && ...), "a stage has more sums or products than cell.h allows");
    // Calls f(stage, index) for each.
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

// Calls f(stage index, sum) for every gate.
template <class Stages, class F> FASTRNN_INLINE void each_gate(F f) {
    Stages::each([&](auto stage, int i) {
        using S = decltype(stage);
        for (int a = 0; a < gates_of<S>(); ++a) f(i, S::sum[a]);
    });
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
