// The engine's kernels of one instruction set as C functions, for test_kernels.py: compiled while the tests run, with
// the flags that setup.py has for the instruction set. All sizes and strides count elements (or items), none is
// checked.
#include "guarded.h"

#include <cstring>

#include "gemm.h"
#include "project_ahead.h"
#include "thread_split.h"
#include "unpacked.h"

using namespace fastrnn;
using namespace fastrnn::FASTRNN_VARIANT;

namespace {

// Calls g(format) of the operand format that a number names: 4 and 8 are float and double as they are, 1 to 3 numbers
// of so many bf16 parts. `storage` says that nothing is multiplied: that only AMX does with several parts.
template <bool storage = false, class G> void with_format(ptrdiff_t format, G g) {
#ifdef __AVX512BF16__
    if (format == 1) g(Split<1>{});
#ifdef __AMX_BF16__
    constexpr bool several = true;
#else
    constexpr bool several = storage;
#endif
    if constexpr (several) {
        if (format == 2) g(Split<2>{});
        if (format == 3) g(Split<3>{});
    }
#else
    if (format == 4) g(Plain<float>{});
    if (format == 8) g(Plain<double>{});
#endif
}

// Calls g(zero) of the element type of so many bytes.
template <class G> void with_type(ptrdiff_t bytes, G g) {
    if (bytes == 4) g(0.0f);
    if (bytes == 8) g(0.0);
}

template <class T> T* typed(void* at) { return static_cast<T*>(at); }
template <class T> const T* typed(const void* at) { return static_cast<const T*>(at); }

template <class T>
Ends<T> ends_of(const void* const* begin, const ptrdiff_t* begin_row, void* const* out, ptrdiff_t out_row,
                ptrdiff_t sums) {
    Ends<T> ends{{}, {}, {}, out_row};
    for (ptrdiff_t s = 0; s < sums; ++s) {
        ends.begin[s] = typed<T>(begin[s]);
        ends.begin_row[s] = begin_row[s];
        ends.out[s] = typed<T>(out[s]);
    }
    return ends;
}

}  // namespace

EXPORT ptrdiff_t test_vector_bytes() { return vector_bytes; }
EXPORT ptrdiff_t test_max_sums() { return max_sums; }
EXPORT ptrdiff_t test_max_rows(ptrdiff_t columns) { return max_rows(int(columns)); }
EXPORT ptrdiff_t test_gemm_rows() { return gemm_rows; }
EXPORT ptrdiff_t test_ahead(ptrdiff_t columns) { return columns ? ahead_columns : ahead_rows; }
EXPORT ptrdiff_t test_can_project_ahead() { return can_project_ahead<Plain<float>>; }
// Numbers that a row of the left side or a column of the right one is filled up to.
EXPORT ptrdiff_t test_whole_numbers(ptrdiff_t format) {
    ptrdiff_t numbers = 0;
    with_format<true>(format, [&](auto f) { numbers = decltype(f)::per_item * decltype(f)::items(1); });
    return numbers;
}

// simd.h

EXPORT ptrdiff_t test_load_head(ptrdiff_t bytes, const void* at, ptrdiff_t count, void* vector) {
    return guarded([&] {
        with_type(bytes, [&](auto zero) {
            using T = decltype(zero);
            store(typed<T>(vector), load_head(typed<T>(at), count));
        });
    });
}

EXPORT ptrdiff_t test_store_head(ptrdiff_t bytes, void* at, const void* vector, ptrdiff_t count) {
    return guarded([&] {
        with_type(bytes, [&](auto zero) {
            using T = decltype(zero);
            store_head(typed<T>(at), load(typed<T>(vector)), count);
        });
    });
}

EXPORT ptrdiff_t test_copy_row(ptrdiff_t bytes, void* to, const void* from, ptrdiff_t count) {
    return guarded([&] {
        with_type(bytes, [&](auto zero) { copy_row(typed<decltype(zero)>(to), typed<decltype(zero)>(from), count); });
    });
}

EXPORT ptrdiff_t test_head_mask(ptrdiff_t bytes, ptrdiff_t count, const void* vector, void* out) {
    return guarded([&] {
        with_type(bytes, [&](auto zero) {
            using T = decltype(zero);
            store(typed<T>(out), masked<T>(load(typed<T>(vector)), head_mask<T>(count)));
        });
    });
}

EXPORT ptrdiff_t test_transpose(ptrdiff_t bytes, void* square) {
    return guarded([&] {
        with_type(bytes, [&](auto zero) {
            using T = decltype(zero);
            Vec<T> rows[width<T>];
            for (int i = 0; i < width<T>; ++i) rows[i] = load(typed<T>(square) + i * width<T>);
            transpose<T>(rows);
            for (int i = 0; i < width<T>; ++i) store(typed<T>(square) + i * width<T>, rows[i]);
        });
    });
}

// operand.h

// Vectors of items, one for each part: of neighbouring elements, and of neighbouring rows.
EXPORT ptrdiff_t test_along(ptrdiff_t format, const float* at, ptrdiff_t count, int32_t* out) {
    return guarded([&] {
        with_format<true>(format, [&](auto f) {
            if constexpr (decltype(f)::per_item == 2) {
                Vec<int32_t> parts[decltype(f)::parts];
                decltype(f)::along(at, count, parts);
                for (int p = 0; p < decltype(f)::parts; ++p) store(out + p * width<int32_t>, parts[p]);
            }
        });
    });
}

EXPORT ptrdiff_t test_across(ptrdiff_t format, const float* even, const float* odd, int32_t* out) {
    return guarded([&] {
        with_format<true>(format, [&](auto f) {
            if constexpr (decltype(f)::per_item == 2) {
                const Vec<float> rows[2] = {load(even), load(odd)};
                Vec<int32_t> parts[decltype(f)::parts];
                decltype(f)::across(rows, parts);
                for (int p = 0; p < decltype(f)::parts; ++p) store(out + p * width<int32_t>, parts[p]);
            }
        });
    });
}

// `count` rows of `depth` elements as items; `to_row` is where the second one begins.
EXPORT ptrdiff_t test_rows(ptrdiff_t format, const float* at, ptrdiff_t row, ptrdiff_t count, ptrdiff_t depth,
                           int32_t* to, ptrdiff_t* to_row) {
    return guarded([&] {
        with_format<true>(format, [&](auto f) {
            if constexpr (decltype(f)::per_item == 2) *to_row = decltype(f)::rows(at, row, count, depth, to).row;
        });
    });
}

// tile.h

EXPORT ptrdiff_t test_tile(ptrdiff_t format, ptrdiff_t packed, ptrdiff_t rows, ptrdiff_t sums, ptrdiff_t vectors,
                           const void* a, ptrdiff_t a_row, const void* B, ptrdiff_t depth, const void* const* begin,
                           const ptrdiff_t* begin_row, void* const* out, ptrdiff_t out_row) {
    return guarded([&] {
        with_format(format, [&](auto f) {
            using F = decltype(f);
            using Item = typename F::Item;
            TileSession session;
            const auto ends = ends_of<typename F::Element>(begin, begin_row, out, out_row, sums);
            const Rows<Item> side{typed<Item>(a), a_row};
            const int R = int(rows), A = int(sums), V = int(vectors);
            if constexpr (F::per_item == 1)
                if (packed) return run_tile<F, Layout::packed>(R, A, V, side, typed<Item>(B), depth, ends);
            run_tile<F, Layout::rows>(R, A, V, side, typed<Item>(B), depth, ends);
        });
    });
}

EXPORT ptrdiff_t test_balanced(ptrdiff_t at, ptrdiff_t count, ptrdiff_t most) { return balanced(at, count, int(most)); }

// packed.h, thread_split.h

// Writes first column and vectors of each block; their number.
EXPORT ptrdiff_t test_each_block(ptrdiff_t bytes, ptrdiff_t first, ptrdiff_t last, ptrdiff_t vectors,
                                 ptrdiff_t backwards, ptrdiff_t* out) {
    ptrdiff_t count = 0;
    const auto note = [&](ptrdiff_t u, int v) {
        out[2 * count] = u;
        out[2 * count++ + 1] = v;
    };
    with_type(bytes, [&](auto zero) {
        using T = decltype(zero);
        each_block<T>(Range{first, last}, int(vectors), backwards != 0, note);
    });
    return count;
}

EXPORT void test_share(ptrdiff_t bytes, ptrdiff_t columns, ptrdiff_t vectors, ptrdiff_t parts, ptrdiff_t part,
                       ptrdiff_t* out) {
    with_type(bytes, [&](auto zero) {
        const Range range = share<decltype(zero)>(columns, int(vectors), int(parts), int(part));
        out[0] = range.first;
        out[1] = range.last;
    });
}

EXPORT void test_division(ptrdiff_t bytes, ptrdiff_t N, ptrdiff_t parts, ptrdiff_t by_units, ptrdiff_t columns,
                          ptrdiff_t vectors, ptrdiff_t part, ptrdiff_t* out) {
    Path path;
    path.parts = int(parts);
    path.by_units = by_units;
    const ThreadSplit split(N, path);
    with_type(bytes, [&](auto zero) {
        const Range units = split.units<decltype(zero)>(columns, int(vectors), int(part));
        const ptrdiff_t found[] = {split.begin(int(part)), split.end(int(part)), units.first,           units.last,
                                   split.most_rows(),      split.owners(),       split.owner(int(part))};
        std::memcpy(out, found, sizeof found);
    });
}

EXPORT ptrdiff_t test_pack_columns(ptrdiff_t format, void* to, ptrdiff_t part, const void* const* B, ptrdiff_t row,
                                   ptrdiff_t col, ptrdiff_t count, ptrdiff_t depth, ptrdiff_t items, ptrdiff_t H,
                                   ptrdiff_t u, ptrdiff_t columns) {
    return guarded([&] {
        with_format<true>(format, [&](auto f) {
            using F = decltype(f);
            using T = typename F::Element;
            Matrix<T> matrix[4];
            for (ptrdiff_t s = 0; s < count; ++s) matrix[s] = {typed<T>(B[s]), row, col};
            pack_columns<F>(typed<typename F::Item>(to), part, matrix, int(count), depth, items, H, u, columns);
        });
    });
}

// B[source * sums + sum] is packed to `to`; `size` is what a panel of all columns takes, and all that null asks for.
EXPORT ptrdiff_t test_pack(ptrdiff_t format, const void* const* B, ptrdiff_t row, ptrdiff_t col, ptrdiff_t sources,
                           ptrdiff_t sums, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t H, ptrdiff_t columns,
                           ptrdiff_t first, ptrdiff_t last, ptrdiff_t vectors, void* to, ptrdiff_t* size) {
    return guarded([&] {
        with_format<true>(format, [&](auto f) {
            using F = decltype(f);
            using T = typename F::Element;
            Workspace memory;
            Panel<F> panel = place<F>(memory, int(sources), int(sums), rows, stride, columns);
            *size = F::parts * panel.depth * sums * columns;
            panel.at = typed<typename F::Item>(to);
            if (!to) return;
            pack(panel, int(sources), rows, stride, H, Range{first, last}, int(vectors),
                 [&](int source, int sum) { return Matrix<T>{typed<T>(B[source * sums + sum]), row, col}; });
        });
    });
}

// out[n][sum] += a[n] @ B[source][sum], block of units by block of units, in tiles of rows.
EXPORT ptrdiff_t test_multiply(ptrdiff_t format, const void* const* B, ptrdiff_t row, ptrdiff_t col, ptrdiff_t sources,
                               ptrdiff_t sums, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t H, ptrdiff_t columns,
                               ptrdiff_t vectors, const void* a, ptrdiff_t a_row, ptrdiff_t count, void* out,
                               ptrdiff_t out_row, ptrdiff_t out_sum) {
    return guarded([&] {
        with_format(format, [&](auto f) {
            using F = decltype(f);
            using T = typename F::Element;
            Workspace memory;
            TileSession session;
            const Panel<F> panel = place<F>(memory, int(sources), int(sums), rows, stride, columns);
            const Range range{0, columns};
            pack(panel, int(sources), rows, stride, H, range, int(vectors),
                 [&](int source, int sum) { return Matrix<T>{typed<T>(B[source * sums + sum]), row, col}; });
            auto* items = memory.take<typename F::Item>(F::left_size(count, panel.elements) + 1);
            const auto side = F::rows(typed<T>(a), a_row, count, panel.elements, items);
            const Product product{Kind::prev, 0, int(sources), int(sums), {0, 1, 2, 3}, {}};
            StepTile<T> tile;
            tile.scratch = memory.take<T>(StepTile<T>::size());
            each_block<T>(range, int(vectors), false, [&](ptrdiff_t u, int v) {
                each_tile(count, max_rows(v * int(sums < max_sums ? sums : max_sums)), [&](ptrdiff_t n, int tile_rows) {
                    for (ptrdiff_t s = 0; s < sums; ++s) {
                        tile.at[s] = typed<T>(out) + n * out_row + s * out_sum + u;
                        tile.row[s] = out_row;
                    }
                    tile.add(panel, product, {u, v, n, tile_rows}, side, Alone<F>{});
                    for (ptrdiff_t s = 0; s < sums; ++s)
                        for (int r = 0; r < tile_rows; ++r)
                            copy_row(typed<T>(out) + (n + r) * out_row + s * out_sum + u, tile.at[s] + r * tile.row[s],
                                     v * width<T>);
                });
            });
        });
    });
}

// unpacked.h: of elements as they are.
#ifndef __AVX512BF16__
// sums[to[s]] += a @ B(s), with the matrices as they are, `offset` elements apart.
EXPORT ptrdiff_t test_multiply_in_place(ptrdiff_t bytes, const void* B, ptrdiff_t row, const ptrdiff_t* offset,
                                        ptrdiff_t sums, const ptrdiff_t* to, const void* a, ptrdiff_t a_row,
                                        ptrdiff_t depth, ptrdiff_t rows, ptrdiff_t first, ptrdiff_t last, ptrdiff_t H,
                                        ptrdiff_t backwards, void* out, ptrdiff_t out_row, ptrdiff_t out_sum) {
    return guarded([&] {
        with_type(bytes, [&](auto zero) {
            using T = decltype(zero);
            const auto matrix = [&](int s) { return Matrix<T>{typed<T>(B) + offset[s], row, 1}; };
            const auto panel = in_place<T>(int(sums), depth, matrix);
            int where[4];
            for (ptrdiff_t s = 0; s < sums; ++s) where[s] = int(to[s]);
            const SumRows<T> here{typed<T>(out), out_row, out_sum};
            multiply_in_place(panel, where, Rows<T>{typed<T>(a), a_row}, rows, Range{first, last}, H, backwards != 0,
                              here);
        });
    });
}

// y += a @ B.T, with source s `s * left` and `right[s]` elements into the rows.
EXPORT ptrdiff_t test_multiply_transposed(ptrdiff_t bytes, void* y, ptrdiff_t y_row, const void* a, ptrdiff_t a_row,
                                          ptrdiff_t rows, ptrdiff_t first, ptrdiff_t last, const void* B, ptrdiff_t row,
                                          ptrdiff_t depth, ptrdiff_t sources, ptrdiff_t left, const ptrdiff_t* right) {
    return guarded([&] {
        with_type(bytes, [&](auto zero) {
            using T = decltype(zero);
            Transposed<T> matrices{typed<T>(B), row, depth, int(sources), left, {}};
            std::memcpy(matrices.right, right, sources * sizeof *right);
            multiply_transposed(typed<T>(y), y_row, Rows<T>{typed<T>(a), a_row}, rows, Range{first, last}, matrices);
        });
    });
}

// project_ahead.h

EXPORT ptrdiff_t test_beside(ptrdiff_t bytes, ptrdiff_t sums, ptrdiff_t vectors, const void* a, const void* B,
                             ptrdiff_t depth, const void* const* begin, void* const* out, const void* x,
                             ptrdiff_t x_row, const void* x_B, const void* x_begin, ptrdiff_t x_depth, void* x_out,
                             ptrdiff_t x_out_row) {
    return guarded([&] {
        with_type(bytes, [&](auto zero) {
            using T = decltype(zero);
            if constexpr (can_project_ahead<Plain<T>>) {
                const ptrdiff_t rows[4] = {};
                const auto ends = ends_of<T>(begin, rows, out, 0, sums);
                const Piece<T> piece{{typed<T>(x), x_row}, typed<T>(x_B), typed<T>(x_begin), x_depth,
                                     typed<T>(x_out),      x_out_row};
                constexpr auto all = std::make_integer_sequence<int, 4 * max_sums>{};
                find_beside<T>(int(sums), int(vectors), all)(typed<T>(a), typed<T>(B), depth, ends, piece);
            }
        });
    });
}

// Projects gate after gate in `turns` turns; `taken` says how many vectors were done after each.
EXPORT ptrdiff_t test_ahead_turns(ptrdiff_t bytes, ptrdiff_t gates, const void* const* B, const void* const* begin,
                                  const ptrdiff_t* to, const ptrdiff_t* vectors, const void* x, ptrdiff_t x_row,
                                  ptrdiff_t depth, void* out, ptrdiff_t out_row, ptrdiff_t turns, ptrdiff_t* taken) {
    return guarded([&] {
        with_type(bytes, [&](auto zero) {
            using T = decltype(zero);
            if constexpr (can_project_ahead<Plain<T>>) {
                Ahead<T> ahead;
                for (ptrdiff_t g = 0; g < gates; ++g)
                    ahead.add({typed<T>(B[g]), typed<T>(begin[g]), to[g], vectors[g]});
                ahead.start({typed<T>(x), x_row}, depth, typed<T>(out), out_row);
                ptrdiff_t count = 0;
                for (ptrdiff_t turn = 0; turn < turns; ++turn) {
                    ahead.grant(turn, turns);
                    for (; ahead.due(); ++count) ahead.take().run();
                    taken[turn] = count;
                }
            }
        });
    });
}
#endif

// gemm.h

// out = begin + A @ B for `steps` times `count` rows.
EXPORT ptrdiff_t test_project(ptrdiff_t format, const void* A, ptrdiff_t A_step, ptrdiff_t A_row, ptrdiff_t depth,
                              const void* B, ptrdiff_t row, ptrdiff_t col, const void* begin, void* out,
                              ptrdiff_t out_step, ptrdiff_t out_row, ptrdiff_t steps, ptrdiff_t count,
                              ptrdiff_t columns) {
    return guarded([&] {
        with_format(format, [&](auto f) {
            using F = decltype(f);
            using T = typename F::Element;
            Workspace memory;
            TileSession session;
            const ptrdiff_t padded = (columns + width<T> - 1) / width<T> * width<T>;
            const Panel<F> panel = place<F>(memory, 1, 1, depth, depth, padded);
            pack(panel, 1, depth, depth, columns, Range{0, padded}, gemm_vectors,
                 [&](int, int) { return Matrix<T>{typed<T>(B), row, col}; });
            auto* items = memory.take<typename F::Item>(F::left_size(steps * count, depth) + 1);
            const auto left =
                left_operand<F>(StepRows<const T>{typed<T>(A), A_step, A_row}, steps, count, depth, items);
            project<F>(
                left, panel.depth, [&](ptrdiff_t u, int v) { return panel.block(u, v, 0); }, typed<T>(begin),
                StepRows<T>{typed<T>(out), out_step, out_row}, steps, count, columns);
        });
    });
}

// to (+)= x.T @ g for `count` columns of x and `vectors` vectors of columns of g; sum += g summed over its rows.
EXPORT ptrdiff_t test_outer(ptrdiff_t format, const void* x, ptrdiff_t x_row, ptrdiff_t count, const void* g,
                            ptrdiff_t g_row, ptrdiff_t numbers, ptrdiff_t vectors, void* to, ptrdiff_t to_row,
                            ptrdiff_t fresh, void* sum) {
    return guarded([&] {
        with_format(format, [&](auto f) {
            using F = decltype(f);
            using T = typename F::Element;
            using Item = typename F::Item;
            Workspace memory;
            TileSession session;
            const Left<F> left{memory.take<Item>(Left<F>::size(count, numbers)), count, numbers};
            const T* next = typed<T>(x);
            left.fill([&] {
                const T* now = next;
                next += x_row;
                return now;
            });
            Item* right = memory.take<Item>(F::parts * F::items(numbers) * vectors * width<T>);
            pack_right<F>(right, typed<T>(g), g_row, numbers, int(vectors), typed<T>(sum));
            add_outer(left, right, int(vectors), typed<T>(to), to_row, fresh != 0);
        });
    });
}
