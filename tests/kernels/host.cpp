// The engine's surroundings (memory, threads, choice of the instruction set) as C functions, for test_kernels.py.
#include "guarded.h"

#include <cstring>
#include <vector>

#include "runtime.h"

using namespace fastrnn;

// Instruction sets without kernels: which of them can run here is all that is asked.
#define STUB(name)                               \
    namespace fastrnn::name {                    \
    extern const Variant variant;                \
    const Variant variant = {#name, nullptr, 0}; \
    }
FASTRNN_VARIANTS(STUB)

EXPORT ptrdiff_t test_can_run(const char* name) { return find_variant(name) != nullptr; }

// memory.cpp

// Takes memory of `count` sizes within one call, fills it, and writes the addresses; 0 if any was overwritten.
EXPORT ptrdiff_t test_workspace(ptrdiff_t count, const ptrdiff_t* bytes, uintptr_t* at) {
    Workspace memory;
    std::vector<unsigned char*> taken;
    for (ptrdiff_t i = 0; i < count; ++i) {
        taken.push_back(memory.take<unsigned char>(bytes[i]));
        at[i] = reinterpret_cast<uintptr_t>(taken[i]);
        std::memset(taken[i], int(i + 1), bytes[i]);
    }
    for (ptrdiff_t i = 0; i < count; ++i)
        for (ptrdiff_t j = 0; j < bytes[i]; ++j)
            if (taken[i][j] != (unsigned char)(i + 1)) return 0;
    return 1;
}

EXPORT ptrdiff_t test_take_buffer(ptrdiff_t bytes) { return reinterpret_cast<ptrdiff_t>(take_buffer(bytes)); }
EXPORT void test_give_buffer(ptrdiff_t at, ptrdiff_t bytes) { give_buffer(reinterpret_cast<void*>(at), bytes); }

// threads.cpp

// Counts how often each part is run; with `inner`, each part runs so many parts of its own.
EXPORT void test_parallel(ptrdiff_t parts, ptrdiff_t inner, ptrdiff_t* runs) {
    struct Context {
        ptrdiff_t inner, *runs;
    };
    struct Inner {
        ptrdiff_t* runs;
    };
    Context context{inner, runs};
    const auto task = [](void* at, int part) {
        const Context& mine = *static_cast<Context*>(at);
        if (!mine.inner) {
            ++mine.runs[part];
            return;
        }
        Inner own{mine.runs + part * mine.inner};
        parallel(int(mine.inner), [](void* at, int part) { ++static_cast<Inner*>(at)->runs[part]; }, &own);
    };
    parallel(int(parts), task, &context);
}

// In each of `turns` turns every thread writes a number of its own, which is no atomic one; behind a barrier it reads
// those of all others, and behind another one the next turn begins. Writes how often each thread ran and how often it
// read what was not to be there; the number of threads.
EXPORT ptrdiff_t test_together(ptrdiff_t most, ptrdiff_t turns, ptrdiff_t* runs, ptrdiff_t* wrong) {
    struct Context {
        ptrdiff_t turns, *runs, *wrong;
        std::vector<ptrdiff_t> written;
        int threads;
    };
    Context context{turns, runs, wrong, std::vector<ptrdiff_t>(most, -1), 0};
    const auto task = [](void* at, int thread, Barrier& barrier) {
        Context& all = *static_cast<Context*>(at);
        if (thread == 0) all.threads = barrier.threads;
        ++all.runs[thread];
        for (ptrdiff_t turn = 0; turn < all.turns; ++turn) {
            all.written[thread] = turn;
            barrier.wait(nullptr);
            for (int other = 0; other < barrier.threads; ++other) all.wrong[thread] += all.written[other] != turn;
            barrier.wait(nullptr);
        }
    };
    together(int(most), task, &context);
    return context.threads;
}

// The last thread does `steps` steps, which write numbers that are no atomic ones, and the others follow. Of `stride`
// steps at a time. How many numbers were read before they were there; -1 if there is but one thread.
EXPORT ptrdiff_t test_progress(ptrdiff_t steps, ptrdiff_t stride) {
    struct Context {
        ptrdiff_t steps, stride;
        std::vector<ptrdiff_t> written;
        Progress progress;
        ptrdiff_t wrong = 0;
    };
    Context context{steps, stride, std::vector<ptrdiff_t>(steps, -1), {}};
    const auto task = [](void* at, int thread, Barrier& barrier) {
        Context& all = *static_cast<Context*>(at);
        if (barrier.threads < 2) {
            all.wrong = -1;
            return;
        }
        for (ptrdiff_t s = 0; s < all.steps; ++s) {
            if (thread == 1) {
                all.written[s] = s;
                all.progress.reached(s + 1);
                continue;
            }
            const ptrdiff_t due = s / all.stride * all.stride + all.stride;
            if (s % all.stride == 0) all.progress.wait_for(due < all.steps ? due : all.steps, nullptr);
            all.wrong += all.written[s] != s;
        }
    };
    together(2, task, &context);
    return context.wrong;
}
