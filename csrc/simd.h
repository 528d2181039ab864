// Vectors of the variant's width, on the vector extensions of GCC and Clang: arithmetic is written with the usual
// operators and works for every instruction set and element type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace fastrnn {
namespace FASTRNN_VARIANT {

constexpr int vector_bytes = FASTRNN_VECTOR_BYTES;
constexpr int registers = FASTRNN_REGISTERS;

template <class T> struct Lane;
template <> struct Lane<float> {
    using Int = int32_t;
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float round = 0x1.8p23f;
};
template <> struct Lane<int32_t> {
    using Int = int32_t;
};
template <> struct Lane<double> {
    using Int = int64_t;
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double round = 0x1.8p52;
};

template <class T> constexpr int width = vector_bytes / int(sizeof(T));

template <class T> struct Simd {
    using Int = typename Lane<T>::Int;
    typedef T Vec __attribute__((vector_size(vector_bytes)));
    typedef T Loose __attribute__((vector_size(vector_bytes), aligned(sizeof(T)), may_alias));
    typedef Int Ints __attribute__((vector_size(vector_bytes)));
};
template <class T> using Vec = typename Simd<T>::Vec;

#define FASTRNN_INLINE static inline __attribute__((always_inline))
#define FASTRNN_INLINED __attribute__((always_inline))
// A loop of a constant number of turns: FASTRNN_UNROLL (int i = 0; i < 4; ++i) f(i);
#define FASTRNN_UNROLL(...) _Pragma("GCC unroll 64") for (__VA_ARGS__)

template <class T> FASTRNN_INLINE Vec<T> load(const T* at) {
    return *reinterpret_cast<const typename Simd<T>::Loose*>(at);
}

template <class T> FASTRNN_INLINE void store(T* at, Vec<T> value) {
    *reinterpret_cast<typename Simd<T>::Loose*>(at) = value;
}

template <class T> FASTRNN_INLINE Vec<T> splat(T value) { return value - Vec<T>{}; }

// The first `count` elements, zeros after them; reads nothing beyond.
template <class T> FASTRNN_INLINE Vec<T> load_head(const T* at, ptrdiff_t count) {
    if (count >= width<T>) return load(at);
    if (count <= 0) return Vec<T>{};
#ifdef __AVX512F__
    const unsigned mask = (1u << count) - 1;
    if constexpr (sizeof(Vec<T>) == 64 && sizeof(T) == 4) return (Vec<T>)_mm512_maskz_loadu_ps(mask, at);
    if constexpr (sizeof(Vec<T>) == 64 && sizeof(T) == 8) return (Vec<T>)_mm512_maskz_loadu_pd(mask, at);
#endif
    Vec<T> value{};
    for (int i = 0; i < width<T>; ++i)
        if (i < count) value[i] = at[i];
    return value;
}

template <class T> FASTRNN_INLINE void store_head(T* at, Vec<T> value, ptrdiff_t count) {
    if (count >= width<T>) return store(at, value);
    if (count <= 0) return;
#ifdef __AVX512F__
    const unsigned mask = (1u << count) - 1;
    if constexpr (sizeof(Vec<T>) == 64 && sizeof(T) == 4) return _mm512_mask_storeu_ps(at, mask, (__m512)value);
    if constexpr (sizeof(Vec<T>) == 64 && sizeof(T) == 8) return _mm512_mask_storeu_pd(at, mask, (__m512d)value);
#endif
    for (int i = 0; i < width<T>; ++i)
        if (i < count) at[i] = value[i];
}

template <class T> FASTRNN_INLINE void clear(T* at, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; ++i) at[i] = 0;
}

template <class T> FASTRNN_INLINE void copy_row(T* to, const T* from, ptrdiff_t count) {
#ifdef __AVX512F__
    for (ptrdiff_t j = 0; j < count; j += width<T>) store_head(to + j, load_head(from + j, count - j), count - j);
#else
    for (ptrdiff_t j = 0; j < count; ++j) to[j] = from[j];
#endif
}

// All bits set in the first `count` lanes.
template <class T> FASTRNN_INLINE typename Simd<T>::Ints head_mask(ptrdiff_t count) {
    typename Simd<T>::Ints place{};
    for (int i = 0; i < width<T>; ++i) place[i] = i;
    const typename Lane<T>::Int n = count < width<T> ? count : width<T>;
    return place < n;
}

template <class T, class V> FASTRNN_INLINE V masked(V value, typename Simd<T>::Ints mask) {
    return (V)((typename Simd<T>::Ints)value & mask);
}

// `yes` where a < b, else `no`; NaN is not less.
template <class V> FASTRNN_INLINE V less(V a, V b, V yes, V no) { return a < b ? yes : no; }
template <class V> FASTRNN_INLINE V less_equal(V a, V b, V yes, V no) { return a <= b ? yes : no; }

template <class V> using ElementOf = typename std::remove_reference<decltype(V{}[0])>::type;

template <class V> FASTRNN_INLINE V magnitude(V a) {
    using Ints = typename Simd<ElementOf<V>>::Ints;
    using Int = typename Lane<ElementOf<V>>::Int;
    constexpr Int clear = Int(~(Int(1) << (8 * sizeof(Int) - 1)));
    return (V)((Ints)a & clear);
}

// `a`, which has no sign, with the sign of `b`.
template <class V> FASTRNN_INLINE V with_sign(V a, V b) {
    using Ints = typename Simd<ElementOf<V>>::Ints;
    using Int = typename Lane<ElementOf<V>>::Int;
    constexpr Int top = Int(Int(1) << (8 * sizeof(Int) - 1));
    return (V)((Ints)a | ((Ints)b & top));
}

// The lesser of `a` and `bound`; NaN where `a` is.
template <class V> FASTRNN_INLINE V least(V a, V bound) {
#ifdef __AVX512F__
    if constexpr (sizeof(V) == 64 && sizeof(a[0]) == 4) return (V)_mm512_min_ps((__m512)bound, (__m512)a);
    if constexpr (sizeof(V) == 64 && sizeof(a[0]) == 8) return (V)_mm512_min_pd((__m512d)bound, (__m512d)a);
#endif
    return bound < a ? bound : a;
}

// 2**mantissa + n, for integral n below it: they become its lowest bits.
template <class T> FASTRNN_INLINE Vec<T> as_number(typename Simd<T>::Ints n) {
    using Int = typename Lane<T>::Int;
    return (Vec<T>)(n | Int(Lane<T>::bias + Lane<T>::mantissa) << Lane<T>::mantissa);
}

// The exponent n and the significand a / 2**n, from 1 to 2, of a positive normal `a`.
template <class V> FASTRNN_INLINE V exponent(V a) {
    using T = ElementOf<V>;
    const auto n = (typename Simd<T>::Ints)a >> Lane<T>::mantissa;
    return as_number<T>(n) - T((typename Lane<T>::Int(1) << Lane<T>::mantissa) + Lane<T>::bias);
}

template <class V> FASTRNN_INLINE V significand(V a) {
    using T = ElementOf<V>;
    using Int = typename Lane<T>::Int;
    constexpr Int one = Int(Lane<T>::bias) << Lane<T>::mantissa, rest = (Int(1) << Lane<T>::mantissa) - 1;
    return (V)(((typename Simd<T>::Ints)a & rest) | one);
}

// A subnormal or 0 as a multiple of the least positive number, with its sign.
template <class V> FASTRNN_INLINE V subnormal(V a) {
    using T = ElementOf<V>;
    const V count =
        as_number<T>((typename Simd<T>::Ints)magnitude(a)) - T(typename Lane<T>::Int(1) << Lane<T>::mantissa);
    return with_sign(count, a);
}

// Square root.
template <class V> FASTRNN_INLINE V root(V a) {
    for (int i = 0; i < width<ElementOf<V>>; ++i) a[i] = ElementOf<V>(__builtin_sqrt(a[i]));
    return a;
}

// f of each element whose magnitude is above `beyond`, else that of `near`.
template <class V, class F> FASTRNN_INLINE V library(V a, V beyond, V near, F f) {
    for (int i = 0; i < width<ElementOf<V>>; ++i)
        if (magnitude(a)[i] > beyond[i]) near[i] = ElementOf<V>(f(a[i]));
    return near;
}

// 2**n for integral `n` in the range of normal exponents: adding `round` leaves n in the lowest bits.
template <class V> FASTRNN_INLINE V power_of_two(V n) {
#ifdef __AVX512F__
    if constexpr (sizeof(V) == 64 && sizeof(n[0]) == 4) return (V)_mm512_scalef_ps(_mm512_set1_ps(1), (__m512)n);
#endif
    using T = ElementOf<V>;
    using Ints = typename Simd<T>::Ints;
    return (V)(((Ints)(n + Lane<T>::round) + Lane<T>::bias) << Lane<T>::mantissa);
}

// a * 2**n for integral `n`; the result may be subnormal, `a` may not.
template <class V> FASTRNN_INLINE V scale(V a, V n) {
#ifdef __AVX512F__
    if constexpr (sizeof(V) == 64 && sizeof(a[0]) == 4) return (V)_mm512_scalef_ps((__m512)a, (__m512)n);
    if constexpr (sizeof(V) == 64 && sizeof(a[0]) == 8) return (V)_mm512_scalef_pd((__m512d)a, (__m512d)n);
#endif
    // In two steps, so that neither power leaves the range of normal exponents.
    using T = ElementOf<V>;
    const V half = (n * T(0.5) + Lane<T>::round) - Lane<T>::round;
    return a * power_of_two(half) * power_of_two(n - half);
}

// Transposes a square of elements: blocks of S x S off the diagonal are swapped, S from half a vector down to 1.
template <class T, int S, size_t... I> FASTRNN_INLINE void transpose_parts(Vec<T>* rows, std::index_sequence<I...>) {
    constexpr int W = width<T>;
    FASTRNN_UNROLL (int i = 0; i < W; ++i) {
        if (i & S) continue;
        const Vec<T> a = rows[i], b = rows[i + S];
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
        rows[i] = __builtin_shufflevector(a, b, (int(I) & S ? W + int(I) - S : int(I))...);
        rows[i + S] = __builtin_shufflevector(a, b, (int(I) & S ? W + int(I) : int(I) + S)...);
#else
        for (int j = 0; j < W; ++j) {
            rows[i][j] = j & S ? b[j - S] : a[j];
            rows[i + S][j] = j & S ? b[j] : a[j + S];
        }
#endif
    }
}

template <class T, int S = width<T> / 2> FASTRNN_INLINE void transpose(Vec<T>* rows) {
    transpose_parts<T, S>(rows, std::make_index_sequence<width<T>>{});
    if constexpr (S > 1) transpose<T, S / 2>(rows);
}

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
