// A pool of worker threads, and how threads that run at the same time wait for each other.
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

#include "runtime.h"

namespace fastrnn {

// The workers share the parts of one job. If they are busy, a second job is run by its caller alone: concurrent calls
// neither wait for each other nor start more threads than asked for.

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

// One turn of a spin-wait: pauses for the first `most` turns, then yields the processor.
void spin(int looks, int most) {
#if defined(__x86_64__) || defined(_M_X64)
    if (looks < most) return __builtin_ia32_pause();
#elif defined(__aarch64__)
    if (looks < most) {
        asm volatile("isb");  // as long as x86's pause; `yield` does not wait on most processors
        return;
    }
#endif
    poll();
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

// A sleeping worker, and where it may run when it wakes.
//
// The system may wake a thread on the processor of the thread that wakes it, above all in a virtual machine, which
// cannot tell an idle processor from one taken away by the host. There the worker would wait for milliseconds while
// another processor is idle. So it is kept away from that processor until it has woken.
struct Sleeper {
    bool asleep = false;
#ifdef __linux__
    pthread_t thread;
    bool kept_away = false;
    cpu_set_t usable;

    void about_to_wake() {
        const int here = sched_getcpu();
        if (!asleep || kept_away || here < 0 || sched_getaffinity(0, sizeof usable, &usable) != 0) return;
        cpu_set_t others = usable;
        CPU_CLR(here, &others);
        kept_away = CPU_COUNT(&others) > 0 && pthread_setaffinity_np(thread, sizeof others, &others) == 0;
    }

    void awake() {
        asleep = false;
        if (kept_away) pthread_setaffinity_np(thread, sizeof usable, &usable);
        kept_away = false;
    }
#else
    void about_to_wake() {}
    void awake() { asleep = false; }
#endif
};

struct Team {
    void (*task)(void*, int, Barrier&);
    void* context;
    Barrier barrier;

    static void run(void* team, int thread) {
        Team& self = *static_cast<Team*>(team);
        self.task(self.context, thread, self.barrier);
    }
};

// Takes the pool if it is free. Not a mutex: a thread must not try to lock one that it holds, as a nested call from a
// signal handler would.
struct Turn {
    std::atomic<bool>& busy;
    const bool taken;

    explicit Turn(std::atomic<bool>& busy) : busy(busy), taken(!busy.exchange(true, std::memory_order_acquire)) {}
    ~Turn() {
        if (taken) busy.store(false, std::memory_order_release);
    }
};

class Pool {
  public:
    void run(int parts, void (*task)(void*, int), void* context) {
        const Turn mine(busy);
        if (!mine.taken) {
            for (int part = 0; part < parts; ++part) task(context, part);
            return;
        }
        start_workers(parts - 1);
        hand_out(parts, task, context);
    }

    void run_together(int most, void (*task)(void*, int, Barrier&), void* context) {
        const Turn mine(busy);
        // As many parts as threads: no thread takes a second part, so all run at the same time.
        const int processors = usable_processors();
        const int threads = mine.taken ? 1 + start_workers((most < processors ? most : processors) - 1) : 1;
        Team team{task, context, Barrier(threads)};
        if (threads == 1) return Team::run(&team, 0);
        hand_out(threads, Team::run, &team);
    }

  private:
    std::atomic<bool> busy{false};
    std::mutex lock;
    std::condition_variable wake;
    std::shared_ptr<Job> current;
    std::atomic<unsigned> generation{0};
    std::vector<std::unique_ptr<Sleeper>> workers;

    // Starts workers up to `wanted`; returns how many of these there are.
    int start_workers(int wanted) {
        std::lock_guard<std::mutex> guard(lock);
        while (int(workers.size()) < wanted && start_worker()) continue;
        return int(workers.size()) < wanted ? int(workers.size()) : wanted;
    }

    void hand_out(int parts, void (*task)(void*, int), void* context) {
        const auto job = std::make_shared<Job>(parts, task, context);
        {
            std::lock_guard<std::mutex> guard(lock);
            current = job;
            generation.fetch_add(1, std::memory_order_release);
            for (int i = 0; i < parts - 1 && i < int(workers.size()); ++i) workers[i]->about_to_wake();
        }
        wake.notify_all();
        job->work();
        for (int i = 0; job->done.load(std::memory_order_acquire) < parts; ++i) spin(i, short_spins);
        std::lock_guard<std::mutex> guard(lock);
        current.reset();
    }

    bool start_worker() {
        workers.push_back(std::make_unique<Sleeper>());
        try {
            std::thread thread([this, self = workers.back().get(), seen = generation.load()] { serve(*self, seen); });
#ifdef __linux__
            workers.back()->thread = thread.native_handle();
#endif
            thread.detach();
            return true;
        } catch (const std::system_error&) {
            workers.pop_back();
            return false;  // the caller runs the parts that no worker takes
        }
    }

    void serve(Sleeper& self, unsigned seen) {
        const FlushSubnormals flush;
        for (;;) {
            for (int i = 0; i < idle_spins && generation.load(std::memory_order_acquire) == seen; ++i)
                spin(i, idle_spins);
            std::shared_ptr<Job> job;
            {
                std::unique_lock<std::mutex> guard(lock);
                self.asleep = true;
                wake.wait(guard, [&] { return generation.load() != seen; });
                self.awake();
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
        // A forked child has none of the threads, and locks in whatever state they were: it starts with a new pool.
        pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif
    });
    return *pool;
}

}  // namespace

void Barrier::wait(const Stop* stop) {
    const unsigned now = turn.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
        if (stop && stop->requested()) stop_seen.store(true, std::memory_order_relaxed);
        arrived.store(0, std::memory_order_relaxed);
        turn.store(now + 1, std::memory_order_release);
        return;
    }
    for (int i = 0; turn.load(std::memory_order_acquire) == now; ++i) spin(i, short_spins);
}

void Progress::wait_for(ptrdiff_t steps, const Stop* stop) const {
    for (int i = 0; done.load(std::memory_order_acquire) < steps && !(stop && stop->requested()); ++i)
        spin(i, short_spins);
}

void parallel(int parts, void (*task)(void*, int), void* context) {
    if (parts == 1) return task(context, 0);
    the_pool().run(parts, task, context);
}

void together(int most, void (*task)(void*, int, Barrier&), void* context) {
    the_pool().run_together(most, task, context);
}

}  // namespace fastrnn
