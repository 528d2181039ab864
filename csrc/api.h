// What Python hands to the engine and what the engine asks of its surroundings. Nothing here depends on the
// processor; every variant of the engine sees the same declarations.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastrnn {

constexpr int max_states = 4, max_unit_params = 4;
constexpr int max_threads = 64;
// Bf16 numbers of 8 bits that are all 24 bits of a float32 number.
constexpr int whole_parts = 3;

// How the input of the steps is projected: at each step, for a chunk of steps at once, or for the next steps beside the
// products of a step; not at all in BPTT.
enum class Input : int { none, step, chunk, ahead };

// The way that a call takes: chosen by sizes, strides, threads and precision alone (path.h), or given by a test. The
// engine decides nothing else by size.
struct Path {
    int parts = 1;          // shares of the work, one for each thread
    bool by_units = false;  // whether these are shares of the hidden units, with a barrier after every stage
    int bf16_parts = 0;     // bf16 numbers that each factor of a product is split into; 0: float32 or float64 as it is
    bool packed = true;     // whether the weights are packed; else they are read where they are
    Input input = Input::none;
    bool merged = false;  // forward only: units that do not fill a vector share vectors between the sums
    ptrdiff_t chunk = 1;  // steps: projected at once (forward), or in one product for the weights' gradients (BPTT)
};

// What a call did, noted by the code that did it: tests compare it with the path.
struct Ran : Path {
    ptrdiff_t steps = 0;  // the most that one thread has done

    Ran() {
        parts = 0;
        chunk = 0;
        packed = false;
    }
    // Adds what one of the threads did.
    void add(const Ran& other) {
        parts += other.parts;
        by_units |= other.by_units;
        bf16_parts = other.bf16_parts;
        packed |= other.packed;
        if (other.input != Input::none) input = other.input;
        merged |= other.merged;
        if (other.chunk > chunk) chunk = other.chunk;
        if (other.steps > steps) steps = other.steps;
    }
};

enum class Outcome : int {
    done,
    not_finite,  // numbers are too large to be split, or not finite: what the call has written is of no use
    stopped,     // Ctrl-C: nor is it here
};

// Whether a call is to end before its last step.
class Stop {
  public:
    bool requested() const { return flag.load(std::memory_order_relaxed); }
    void request() { flag.store(true, std::memory_order_relaxed); }

  private:
    std::atomic<bool> flag{false};
};

// For the thread that called: asks now and then whether Ctrl-C was pressed, which requests the stop of its call. For
// every other thread: nothing.
void poll();

// Bits of the flags of a step of a sequence; see engine/contract.py.
enum Flag : uint8_t {
    hold = 1,   // the state that enters the step is held: it is not one of the sequence's
    reset = 2,  // the state that enters the step is the reset state
    cut = 4,    // BPTT: no gradient passes to the step before
};

// One layer and direction over one batch. Strides count numbers, not bytes; rows of `x` and `dy` are contiguous.
struct Call {
    ptrdiff_t T, N, D, H;
    const void* x;  // (T, N, D)
    ptrdiff_t x_time, x_row;
    const void* state[max_states];  // (N, H) before the first step, contiguous; null for zeros
    const void* Wx;                 // (D, G*H)
    ptrdiff_t Wx_row, Wx_col;
    const void* Wh;  // (H, P*H)
    ptrdiff_t Wh_row, Wh_col;
    const void* bx;                          // (G, H) contiguous, or null
    const void* bh;                          // (P, H) contiguous, or null
    const void* unit[max_unit_params] = {};  // (H) contiguous, the cell's per-unit parameters; null for zeros
    const uint8_t* flags = nullptr;          // (T, N) contiguous, by time; null where all are 0
    const void* reset[max_states] = {};      // (N, H) contiguous, the states after a reset; null for zeros
    int reverse;
    int threads;
    int per_sequence = 0;  // BPTT: whether each sequence has parameters' gradients of its own
    int bf16_parts;        // bf16 numbers that each number of a product may be split into; 0: none
    Path path;
    const Stop* stop = nullptr;  // null where nobody could ask for it

    // Whether the weights of a row lie side by side: they can be read as they are.
    bool rows_lie_along_memory() const { return Wx_col == 1 && Wh_col == 1; }
};

// Steps that a layer has done, for the layer above it where both run at the same time.
class Progress {
  public:
    void reached(ptrdiff_t steps) { done.store(steps, std::memory_order_release); }
    // Until `steps` are done, or the call is to end.
    void wait_for(ptrdiff_t steps, const Stop* stop) const;

  private:
    alignas(64) std::atomic<ptrdiff_t> done{0};
};

struct ForwardCall : Call {
    int keep;
    void* y;  // (T, N, H), zeros where a state is held
    ptrdiff_t y_time, y_row;
    void* last[max_states];           // (N, H)
    void* saved;                      // `saved_size` numbers if `keep`
    const Progress* below = nullptr;  // of the layer that computes x, if that is not done
    Progress* above = nullptr;        // where this one's steps are counted, if anyone asks
};

struct BackwardCall : Call {
    const void* y;  // of the forward call, unchanged
    ptrdiff_t y_time, y_row;
    const void* saved;
    const void* dy;  // (T, N, H), or null for zeros
    ptrdiff_t dy_time, dy_row;
    const void* dlast[max_states];  // (N, H), contiguous; null for zeros
    void* dx;                       // (T, N, D), contiguous, as all that follow; null if it is not needed
    void* dstate[max_states];       // (N, H)
    void* dreset[max_states] = {};  // (N, H), or null where nobody asks
    void* dWx;                      // (D, G*H); this and the next two are null if they are not needed
    void* dWh;                      // (H, P*H)
    void* dslots;                   // (slots, H); all three (N, ...) if `per_sequence`
    double clip = 0;                // bound of the gradient of the states at each step; 0 for none
    int clip_norm = 0;              // whether that is of its norm, of each sequence; else of each element
};

// The engine of one cell and number type, compiled for one instruction set.
struct Kernel {
    const char* cell;
    int bytes;       // of a number
    int bf16_parts;  // as of a call; 0: products of the numbers themselves
    // The path of a call; with `bf16_parts` 0 if splitting numbers makes it no quicker: then another kernel takes it.
    Path (*forward_path)(const Call&);
    Path (*backward_path)(const Call&);
    // What hinders a call on its path, if that was not chosen for it; null if nothing does.
    const char* (*forward_hindrance)(const Call&);
    const char* (*backward_hindrance)(const Call&);
    size_t (*saved_size)(const Call&);
    Outcome (*forward)(const ForwardCall&, Ran&);
    Outcome (*backward)(const BackwardCall&, Ran&);
};

struct Variant {
    const char* name;
    const Kernel* kernels;
    int count;
};

// Whether the system lets this process use the tile registers of AMX; asks it once.
bool tiles_allowed();

// Memory that lasts until the call ends; throws std::bad_alloc. Of the calling thread: take it before `parallel`. A
// call within a call, from the handler of a signal, has memory of its own.
class Workspace {
  public:
    Workspace();
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    template <class T> T* take(ptrdiff_t count) { return static_cast<T*>(take_bytes(count * sizeof(T))); }

  private:
    const bool nested;
    std::vector<void*> more;
    void* take_bytes(size_t bytes);
};

// Run `task(context, part)` for every part; by up to `parts` threads at once. Which thread runs a part is not fixed.
void parallel(int parts, void (*task)(void* context, int part), void* context);

// A place where a number of threads wait until all of them have come to it.
class Barrier {
  public:
    explicit Barrier(int threads) : threads(threads) {}
    // The last to come looks at `stop` for all of them.
    void wait(const Stop* stop);
    // What it saw: the same for all threads, until they come to the barrier again.
    bool stopping() const { return stop_seen.load(std::memory_order_relaxed); }

    const int threads;

  private:
    alignas(64) std::atomic<int> arrived{0};
    std::atomic<bool> stop_seen{false};
    alignas(64) std::atomic<unsigned> turn{0};
};

// Run `task(context, thread, barrier)` by as many threads as can be had, at most `most`: all at once, so that they may
// wait for each other. `thread` counts from 0 to `barrier.threads`.
void together(int most, void (*task)(void* context, int thread, Barrier& barrier), void* context);

}  // namespace fastrnn
