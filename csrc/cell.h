// The vocabulary of the generated cells: places of H-vectors, sums, products, stages. See engine/plan.py.
#pragma once

#include "api.h"
#include "simd.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

enum class Kind { prev, keep, da };

// What a sum begins with: row `unit` of the units, projection of gate `gate`; -1 for none.
struct Sum {
    int unit, gate;
};

// A row of the units: block `gate` of bx plus block `matrix` of bh; -1 for none.
struct Bias {
    int gate, matrix;
};

// sums[s] += sources @ matrices: `sources` neighbouring slots from `index` on, matrix[source * sums + s].
struct Product {
    Kind kind;
    int index, sources, sums;
    int sum[4];
    int matrix[16];
};

// A term of the weight gradient: dWh[matrix] += vector.T @ da[slot].
struct Use {
    int slot;
    Kind kind;
    int index, matrix;
};

// Where the values of one sequence and one vector of units stand.
template <class T> struct Row {
    const T* acc[4];
    const T* prev[max_states];
    T* next[max_states];
    T* carry[max_states];
    T* keep;
    T* da;
    const T* unit;
    ptrdiff_t Hp;
    typename Simd<T>::Ints head;  // the places of the vector that are units
};

template <class... S> struct Stages {
    using tuple = std::tuple<S...>;
    static constexpr int count = sizeof...(S);
    // Calls f(stage, number) for each.
    template <class F> FASTRNN_INLINE void each(F f) {
        int i = 0;
        (f(S{}, i++), ...);
    }
};

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
