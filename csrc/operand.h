// The operands of a product in memory: floating-point elements as they are, or each split into a sum of bf16 terms.
#pragma once

#include "api.h"
#include "simd.h"
#include "thresholds.h"

namespace fastrnn {
namespace FASTRNN_VARIANT {

// A matrix with contiguous rows: row n begins at `at + n * row`.
template <class Item> struct Rows {
    const Item* at;
    ptrdiff_t row;

    Rows from(ptrdiff_t n) const { return {at + n * row, row}; }
};

// Elements as they are: an item is an element.
template <class T> struct Plain {
    using Element = T;
    using Item = T;
    static constexpr int bf16_parts = 0, per_item = 1, parts = 1;

    // Items that hold `depth` elements, and items of a row with its padding.
    static constexpr ptrdiff_t items_within(ptrdiff_t depth) { return depth; }
    static constexpr ptrdiff_t items(ptrdiff_t depth) { return depth; }
    static constexpr ptrdiff_t left_size(ptrdiff_t, ptrdiff_t) { return 0; }
    // Whether a call of T steps, `rows` sequences a thread and H units gains from this form of operands.
    static constexpr bool gains(ptrdiff_t, ptrdiff_t, ptrdiff_t) { return true; }
    FASTRNN_INLINE Vec<T> add(Vec<T> sum, Vec<T> a, Vec<T> b) { return sum + a * b; }
    FASTRNN_INLINE void along(const T* at, ptrdiff_t count, Vec<T>* parts) { parts[0] = load_head(at, count); }
    FASTRNN_INLINE void across(const Vec<T>* rows, Vec<T>* parts) { parts[0] = rows[0]; }
    FASTRNN_INLINE Rows<T> rows(const T* at, ptrdiff_t row, ptrdiff_t, ptrdiff_t, T*) { return {at, row}; }
};

#ifdef __AVX512BF16__
// Each float32 as a sum of PARTS bf16 terms of 8 significant bits: the first is the nearest bf16 to it, every later one
// the nearest to what is left. An item is a pair of neighbours along the depth, since the bf16 dot product instruction
// adds both products to a sum at once; it takes subnormals as zero.
template <int PARTS> struct Split {
    using Element = float;
    using Item = int32_t;
    static constexpr int bf16_parts = PARTS, per_item = 2, parts = PARTS;
    // With full precision no term may be lost, however small: elements are scaled up so that the terms of even the
    // smallest subnormal, 2**-149, are normal.
    static constexpr bool full_precision = PARTS == full_precision_parts;
    static constexpr float scale = full_precision ? 0x1p24f : 1, unscale = 1 / (scale * scale);
    // Which term of the left operand meets which of the right one; products below the last bit are left out.
    // Consecutive pairs share an operand.
    static constexpr int terms = PARTS * (PARTS + 1) / 2;
    static constexpr int left(int term) {
        constexpr int of[][6] = {{0}, {1, 0, 0}, {2, 1, 1, 0, 0, 0}};
        return of[PARTS - 1][term];
    }
    static constexpr int right(int term) {
        constexpr int of[][6] = {{0}, {0, 0, 1}, {0, 0, 1, 1, 2, 0}};
        return of[PARTS - 1][term];
    }
#ifdef __AMX_BF16__
    static constexpr ptrdiff_t item_multiple = 16;  // a row of a tile register
#else
    static constexpr ptrdiff_t item_multiple = 1;
#endif

    static constexpr ptrdiff_t items_within(ptrdiff_t depth) { return (depth + 1) / 2; }
    static constexpr ptrdiff_t items(ptrdiff_t depth) {
        return (items_within(depth) + item_multiple - 1) / item_multiple * item_multiple;
    }
    static constexpr ptrdiff_t left_size(ptrdiff_t rows, ptrdiff_t depth) { return rows * PARTS * items(depth); }
#ifdef __AMX_BF16__
    static bool gains(ptrdiff_t T, ptrdiff_t rows, ptrdiff_t H) {
        return (full_precision ? worth_splitting_in_three(T, rows, H)
                               : worth_tiles(rows) && worth_splitting(T, rows)) &&
               tiles_allowed();
    }
#else
    static constexpr bool gains(ptrdiff_t T, ptrdiff_t rows, ptrdiff_t) { return worth_splitting(T, rows); }
#endif

    FASTRNN_INLINE Vec<float> add(Vec<float> sum, Vec<Item> a, Vec<Item> b) {
        return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
    }

    // Items of the neighbouring elements at `at`, of which the first `count` exist.
    FASTRNN_INLINE void along(const float* at, ptrdiff_t count, Vec<Item>* parts) {
        Vec<float> low = scaled(load_head(at, count)),
                   high = scaled(load_head(at + width<float>, count - width<float>));
        FASTRNN_UNROLL (int p = 0; p < PARTS; ++p) {
            const __m256i first = take(low), second = take(high);
            parts[p] = (Vec<Item>)_mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(first), second, 1);
        }
    }

    // Items of two rows: each holds one element of either.
    FASTRNN_INLINE void across(const Vec<float>* rows, Vec<Item>* parts) {
        Vec<float> even = scaled(rows[0]), odd = scaled(rows[1]);
        FASTRNN_UNROLL (int p = 0; p < PARTS; ++p)
            parts[p] = (Vec<Item>)(widened(take(even)) | widened(take(odd)) << 16);
    }

    // Splits rows (count, depth) into items at `to`: [row][term][items].
    static Rows<Item> rows(const float* at, ptrdiff_t row, ptrdiff_t count, ptrdiff_t depth, Item* to) {
        const ptrdiff_t of_part = items(depth);
        for (ptrdiff_t n = 0; n < count; ++n)
            for (ptrdiff_t i = 0; i < of_part; i += width<Item>) {
                Vec<Item> part[PARTS];
                along(at + n * row + 2 * i, depth - 2 * i, part);
                FASTRNN_UNROLL (int p = 0; p < PARTS; ++p)
                    store_head(to + (n * PARTS + p) * of_part + i, part[p], of_part - i);
            }
        return {to, PARTS * of_part};
    }

  private:
    typedef uint16_t Halves __attribute__((vector_size(32)));
    typedef uint32_t Wide __attribute__((vector_size(64)));
    FASTRNN_INLINE Vec<float> scaled(Vec<float> value) { return full_precision ? value * scale : value; }
    FASTRNN_INLINE Wide widened(__m256i halves) { return __builtin_convertvector((Halves)halves, Wide); }

    // The nearest bf16 terms; `value` becomes the remainder, or zero where they are not finite.
    FASTRNN_INLINE __m256i take(Vec<float>& value) {
        const __m256i nearest = (__m256i)_mm512_cvtneps_pbh((__m512)value);
        if constexpr (PARTS > 1) {
            const Vec<float> taken = (Vec<float>)(widened(nearest) << 16);
            const Vec<float> infinite = splat(__builtin_inff());
            value = less(magnitude(taken), infinite, value - taken, Vec<float>{});
        }
        return nearest;
    }
};
#endif

}  // namespace FASTRNN_VARIANT
}  // namespace fastrnn
