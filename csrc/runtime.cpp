// The surroundings of the engine, compiled for the baseline processor: variants, memory, threads.
#include "runtime.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif
#ifdef __linux__
#include <sched.h>
#include <sys/mman.h>
#endif

namespace fastrnn {

#define FASTRNN_DECLARE(name) namespace name { extern const Variant variant; }
FASTRNN_VARIANTS(FASTRNN_DECLARE)

namespace {

bool can_run(const char* name) {
#if defined(__x86_64__) || defined(_M_X64)
    const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
    if (is("avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    if (is("avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return true;
}

}  // namespace

const Variant* find_variant(const char* wanted) {
#define FASTRNN_ADDRESS(name) &name::variant,
    const Variant* best_first[] = {FASTRNN_VARIANTS(FASTRNN_ADDRESS)};
    for (const Variant* variant : best_first)
        if (can_run(variant->name) && (!wanted || std::strcmp(wanted, variant->name) == 0)) return variant;
    return nullptr;
}

const char* variant_names() {
#define FASTRNN_SPACED(name) #name " "
    return FASTRNN_VARIANTS(FASTRNN_SPACED);
}

int find_kernel(const Variant* variant, const char* cell, int bytes) {
    for (int i = 0; i < variant->count; ++i)
        if (variant->kernels[i].bytes == bytes && std::strcmp(variant->kernels[i].cell, cell) == 0) return i;
    return -1;
}

// ---------------------------------------------------------------------------------------------------------------
// Memory of a call: one block for each thread that calls, kept for the next call unless it is large.

namespace {

constexpr size_t line = 64, keep_at_most = size_t(8) << 20;

struct Block {
    char* at = nullptr;
    size_t size = 0, used = 0, wanted = 0;
    std::vector<void*> more;

    ~Block() { std::free(at); }
};

thread_local Block block;

char* aligned_up(void* at) { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + line - 1) & ~uintptr_t(line - 1)); }

// Large blocks lie on huge pages where the system has them: a step reads megabytes of packed weights in order, and
// with pages of 4 KB a tenth of its time would go into finding them.
void* allocate_or_null(size_t bytes) {
#ifdef __linux__
    constexpr size_t huge = size_t(2) << 20;
    if (bytes >= huge) {
        void* at = nullptr;
        if (posix_memalign(&at, huge, bytes)) return nullptr;
        madvise(at, bytes / huge * huge, MADV_HUGEPAGE);  // advice: if it is not taken, nothing else changes
        return at;
    }
#endif
    return std::malloc(bytes);
}

void* allocate(size_t bytes) {
    void* at = allocate_or_null(bytes + line);
    if (!at) throw std::bad_alloc();
    return at;
}

}  // namespace

Workspace::Workspace() { block.used = block.wanted = 0; }

Workspace::~Workspace() {
    for (void* at : block.more) std::free(at);
    block.more.clear();
    if (block.wanted <= block.size || block.wanted > keep_at_most) return;
    std::free(block.at);
    block.at = static_cast<char*>(allocate_or_null(block.wanted + line));
    block.size = block.at ? block.wanted : 0;
}

void* Workspace::take_bytes(size_t bytes) {
    bytes = (bytes + line - 1) & ~(line - 1);
    block.wanted += bytes;
    if (block.used + bytes <= block.size) {
        char* at = aligned_up(block.at) + block.used;
        block.used += bytes;
        return at;
    }
    block.more.reserve(block.more.size() + 1);
    block.more.push_back(allocate(bytes));
    return aligned_up(block.more.back());
}

// ---------------------------------------------------------------------------------------------------------------
// What a forward pass keeps: tens of megabytes that the system would hand out page by page, zeroed, at every step of
// a training loop. Those that were given back wait for the next forward pass of the same size.

namespace {

class Spare {
  public:
    void* take(size_t bytes) {
        std::lock_guard<std::mutex> guard(lock);
        for (size_t i = 0; i < blocks.size(); ++i)
            if (blocks[i].size == bytes) {
                void* at = blocks[i].at;
                total -= bytes;
                blocks.erase(blocks.begin() + i);
                return at;
            }
        // Another size: the loop that these were for is over.
        for (const Freed& block : blocks) std::free(block.at);
        blocks.clear();
        total = 0;
        return nullptr;
    }

    void give(void* at, size_t bytes) {
        std::lock_guard<std::mutex> guard(lock);
        if (total + bytes > most) return std::free(at);
        blocks.push_back({at, bytes});
        total += bytes;
    }

  private:
    struct Freed {
        void* at;
        size_t size;
    };
    static constexpr size_t most = size_t(256) << 20;
    std::mutex lock;
    std::vector<Freed> blocks;
    size_t total = 0;
};

// Never destroyed: arrays may be freed at the very end of the process.
Spare& spare() {
    static Spare* const one = new Spare;
    return *one;
}

}  // namespace

void* take_buffer(size_t bytes) {
    void* at = spare().take(bytes);
    return at ? at : allocate_or_null(bytes);
}

void give_buffer(void* at, size_t bytes) { spare().give(at, bytes); }

// ---------------------------------------------------------------------------------------------------------------
// Threads: workers that wait for the parts of one job. A job that finds them busy is run by its caller alone, so
// calls from several threads at once neither wait for each other nor start more threads than asked for.

namespace {

struct Job {
    void (*task)(void*, int);
    void* context;
    int parts;
    std::atomic<int> next{0}, done{0};

    Job(int parts, void (*task)(void*, int), void* context) : task(task), context(context), parts(parts) {}

    void work() {
        for (int part; (part = next.fetch_add(1)) < parts;) {
            task(context, part);
            done.fetch_add(1, std::memory_order_release);
        }
    }
};

// Looks at a flag before a thread gives up its processor. A worker waits some tens of microseconds, as the next call is
// often near; a thread within a call a few, for if the other is not there by then, it may be waiting for this processor.
constexpr int spins = 2000, short_spins = 200;

// Between two looks at a flag, after `looks` of at most `most`.
void relax(int looks, int most) {
#if defined(__x86_64__) || defined(_M_X64)
    if (looks < most) return __builtin_ia32_pause();
#elif defined(__aarch64__)
    if (looks < most) {
        asm volatile("isb");  // as long as x86's pause; `yield` is no wait at all on most processors
        return;
    }
#endif
    std::this_thread::yield();
}

// More threads than these would only wait for each other.
int usable_processors() {
#ifdef __linux__
    cpu_set_t usable;
    if (sched_getaffinity(0, sizeof usable, &usable) == 0) return CPU_COUNT(&usable);
#endif
    const int count = int(std::thread::hardware_concurrency());
    return count > 0 ? count : 1;
}

struct Team {
    void (*task)(void*, int, Barrier&);
    void* context;
    Barrier barrier;

    static void run(void* team, int thread) {
        Team& self = *static_cast<Team*>(team);
        self.task(self.context, thread, self.barrier);
    }
};

class Pool {
  public:
    void run(int parts, void (*task)(void*, int), void* context) {
        std::unique_lock<std::mutex> mine(busy, std::try_to_lock);
        if (!mine.owns_lock()) {
            for (int part = 0; part < parts; ++part) task(context, part);
            return;
        }
        start_workers(parts - 1);
        hand_out(parts, task, context);
    }

    void run_together(int most, void (*task)(void*, int, Barrier&), void* context) {
        std::unique_lock<std::mutex> mine(busy, std::try_to_lock);
        // As many parts as threads: no thread comes back for a second one, so all parts run at once.
        const int processors = usable_processors();
        const int threads = mine.owns_lock() ? 1 + start_workers((most < processors ? most : processors) - 1) : 1;
        Team team{task, context, Barrier(threads)};
        if (threads == 1) return Team::run(&team, 0);
        hand_out(threads, Team::run, &team);
    }

  private:
    std::mutex busy, lock;
    std::condition_variable wake;
    std::shared_ptr<Job> current;
    std::atomic<unsigned> generation{0};
    int workers = 0;

    // Workers there are, at most `wanted`.
    int start_workers(int wanted) {
        std::lock_guard<std::mutex> guard(lock);
        while (workers < wanted && start_worker()) ++workers;
        return workers < wanted ? workers : wanted;
    }

    void hand_out(int parts, void (*task)(void*, int), void* context) {
        const auto job = std::make_shared<Job>(parts, task, context);
        {
            std::lock_guard<std::mutex> guard(lock);
            current = job;
            generation.fetch_add(1, std::memory_order_release);
        }
        wake.notify_all();
        job->work();
        for (int i = 0; job->done.load(std::memory_order_acquire) < parts; ++i) relax(i, short_spins);
        std::lock_guard<std::mutex> guard(lock);
        current.reset();
    }

    bool start_worker() {
        try {
            std::thread([this, seen = generation.load()] { serve(seen); }).detach();
            return true;
        } catch (const std::system_error&) {
            return false;  // the caller does all parts that no worker takes
        }
    }

    void serve(unsigned seen) {
        for (;;) {
            for (int i = 0; i < spins && generation.load(std::memory_order_acquire) == seen; ++i) relax(i, spins);
            std::shared_ptr<Job> job;
            {
                std::unique_lock<std::mutex> guard(lock);
                wake.wait(guard, [&] { return generation.load() != seen; });
                seen = generation.load();
                job = current;
            }
            if (job) job->work();
        }
    }
};

// Never destroyed: its threads wait in it until the process ends.
Pool* pool = nullptr;

Pool& the_pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        pool = new Pool;
#ifndef _WIN32
        // A forked child has none of the threads and whatever state the locks were in: it begins anew.
        pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif
    });
    return *pool;
}

}  // namespace

void Barrier::wait() {
    const unsigned now = turn.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
        arrived.store(0, std::memory_order_relaxed);
        turn.store(now + 1, std::memory_order_release);
        return;
    }
    for (int i = 0; turn.load(std::memory_order_acquire) == now; ++i) relax(i, short_spins);
}

void Progress::wait_for(ptrdiff_t steps) const {
    for (int i = 0; done.load(std::memory_order_acquire) < steps; ++i) relax(i, short_spins);
}

void parallel(int parts, void (*task)(void*, int), void* context) {
    if (parts == 1) return task(context, 0);
    the_pool().run(parts, task, context);
}

void together(int most, void (*task)(void*, int, Barrier&), void* context) {
    the_pool().run_together(most, task, context);
}

// ---------------------------------------------------------------------------------------------------------------

namespace {

// A thread takes every so manieth layer; each waits for the one below it, step by step.
struct Wave {
    const Kernel& kernel;
    ForwardCall* calls;
    int layers;
    std::unique_ptr<Progress[]> progress{new Progress[layers]};
    std::atomic<bool> failed{false};

    static void run(void* wave, int thread, Barrier& barrier) {
        Wave& self = *static_cast<Wave*>(wave);
        for (int layer = thread; layer < self.layers; layer += barrier.threads) self.run_layer(layer);
    }

    void run_layer(int layer) {
        ForwardCall& call = calls[layer];
        if (layer) call.below = &progress[layer - 1];
        call.above = &progress[layer];
        try {
            kernel.forward(call);
        } catch (...) {  // no memory; whoever waits for this layer must not wait for ever
            failed = true;
            progress[layer].reached(call.T);
        }
    }
};

// Steps of a sequence that are worth waking a thread for.
constexpr ptrdiff_t worth_a_wave = 64;

}  // namespace

void forward_layers(const Kernel& kernel, ForwardCall* calls, int layers, int threads) {
    const bool alone = layers < 2 || threads < 2 || calls->T < worth_a_wave || kernel.parts(*calls) > 1;
    if (alone) {
        for (int layer = 0; layer < layers; ++layer) kernel.forward(calls[layer]);
        return;
    }
    Wave wave{kernel, calls, layers};
    together(threads < layers ? threads : layers, Wave::run, &wave);
    if (wave.failed) throw std::bad_alloc();
}

}  // namespace fastrnn
