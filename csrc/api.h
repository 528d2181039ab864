// What the binding hands to the engine, and what the engine asks of the runtime. Nothing here depends on the
// instruction set: every variant is compiled with the same declarations.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastrnn {

constexpr int max_states = 4, max_unit_params = 4;
constexpr int max_threads = 64;
// Terms of 8 significant bits that hold all 24 bits of a float32.
constexpr int full_precision_parts = 3;

// How the input x[t] Wx is projected: step by step, for a chunk of steps in one GEMM, or for the next steps while a
// step waits for its recurrent weights; not at all in BPTT.
enum class Input : int { none, step, chunk, ahead };

// How a call is computed: chosen from sizes, strides, threads and precision alone (path.h), or given by a test. Nothing
// else in the engine depends on sizes.
struct Path {
    int parts = 0;          // shares of the work, one for each thread
    bool by_units = false;  // whether these are shares of the hidden units, with a barrier after every stage
    int bf16_parts = 0;     // bf16 terms that each operand of a product is split into; 0: not split
    bool packed = false;    // whether the weights are packed; if not, they are read in place
    Input input = Input::none;
    bool merged = false;  // forward only: units that do not fill a vector share vectors between the sums
    ptrdiff_t chunk = 0;  // steps: projected at once (forward), or in one product for the weights' gradients (BPTT)
};

// What a call really did, recorded by the code that did it: tests compare it with the path.
struct Ran : Path {
    ptrdiff_t steps = 0;  // the most that one thread has run

    // Adds the record of one thread.
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
    not_finite,  // operands were too large to be split, or not finite: the outputs are invalid
    stopped,     // Ctrl-C: the outputs are invalid
};

// Asks a running call to end before its last step.
class Stop {
  public:
    bool requested() const { return flag.load(std::memory_order_relaxed); }
    void request() { flag.store(true, std::memory_order_relaxed); }

  private:
    std::atomic<bool> flag{false};
};

// In the thread that made the call: checks for Ctrl-C now and then, and requests a stop. In any other thread: nothing.
void poll();

// Bits of the flags of one step of one sequence; see engine/contract.py.
enum Flag : uint8_t {
    hold = 1,   // the step is not one of the sequence's: the entering state is held
    reset = 2,  // the reset state enters the step
    cut = 4,    // BPTT: no gradient passes to the step before
};

// One layer and direction over one batch. Strides are in elements, not bytes; rows of `x` and `dy` are contiguous.
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
    int per_sequence = 0;  // BPTT: whether each sequence has gradients of the parameters of its own
    int bf16_parts;        // bf16 terms that operands of products may be split into; 0: none
    Path path;
    const Stop* stop = nullptr;  // null where nothing can request a stop

    // Whether both matrices have unit column stride: only then can they be read in place.
    bool unit_column_stride() const { return Wx_col == 1 && Wh_col == 1; }
};

// Number of steps that a layer has finished, for the layer above it where both run at the same time.
class Progress {
  public:
    void reached(ptrdiff_t steps) { done.store(steps, std::memory_order_release); }
    // Spin-waits until `steps` are finished, or a stop is requested.
    void wait_for(ptrdiff_t steps, const Stop* stop) const;

  private:
    alignas(64) std::atomic<ptrdiff_t> done{0};
};

struct ForwardCall : Call {
    int keep;
    void* y;  // (T, N, H), zeros where a state is held
    ptrdiff_t y_time, y_row;
    void* last[max_states];           // (N, H)
    void* saved;                      // `saved_size` elements if `keep`
    const Progress* below = nullptr;  // of the layer that computes x, if it still runs
    Progress* above = nullptr;        // where this layer's steps are counted, or null
};

struct BackwardCall : Call {
    const void* y;  // of the forward call
    ptrdiff_t y_time, y_row;
    const void* saved;
    const void* dy;  // (T, N, H), or null for zeros
    ptrdiff_t dy_time, dy_row;
    const void* dlast[max_states];  // (N, H), contiguous; null for zeros
    void* dx;                       // (T, N, D), contiguous, as all that follow; null if not needed
    void* dstate[max_states];       // (N, H)
    void* dreset[max_states] = {};  // (N, H), or null if not needed
    void* dWx;                      // (D, G*H); this and the next two are null if not needed
    void* dWh;                      // (H, P*H)
    void* dslots;                   // (slots, H); all three (N, ...) if `per_sequence`
    double clip = 0;                // bound of the gradient of the states at each step; 0 for none
    int clip_norm = 0;              // whether that is of its norm, of each sequence; else of each element
};

// One direction of the engine of a cell.
template <class C> struct Direction {
    // The path of a call; its `bf16_parts` is 0 where splitting the operands would not be faster: another kernel then
    // runs.
    Path (*path)(const Call&);
    // Why a call cannot take the path that a test gave it; null if it can.
    const char* (*refusal)(const Call&);
    Outcome (*run)(const C&, Ran&);
};

// The engine of one cell and element type, compiled for one instruction set.
struct Kernel {
    const char* cell;
    int bytes;       // of an element
    int bf16_parts;  // as in a call; 0: operands are not split
    size_t (*saved_size)(const Call&);
    Direction<ForwardCall> forward;
    Direction<BackwardCall> backward;
};

struct Variant {
    const char* name;
    const Kernel* kernels;
    int count;
};

// Whether the operating system lets this process use the tile registers of AMX; asked once.
bool tiles_allowed();

// Scratch memory until the call ends; throws std::bad_alloc. It belongs to the calling thread: take all of it before
// `parallel`. A nested call, from a signal handler, gets memory of its own.
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

// Runs `task(context, part)` for every part, on up to `parts` threads. Which thread runs which part is not fixed.
void parallel(int parts, void (*task)(void* context, int part), void* context);

// A reusable barrier for a fixed number of threads, which spin-wait at it.
class Barrier {
  public:
    explicit Barrier(int threads) : threads(threads) {}
    // The last thread to arrive checks `stop` for all of them.
    void wait(const Stop* stop);
    // What that check found: the same for all threads until they reach the barrier again.
    bool stopping() const { return stop_seen.load(std::memory_order_relaxed); }

    const int threads;

  private:
    alignas(64) std::atomic<int> arrived{0};
    std::atomic<bool> stop_seen{false};
    alignas(64) std::atomic<unsigned> turn{0};
};

// Runs `task(context, thread, barrier)` on as many threads as are free, at most `most`; all run at the same time, so
// they may wait for each other. `thread` counts from 0 up to `barrier.threads`.
void together(int most, void (*task)(void* context, int thread, Barrier& barrier), void* context);

}  // namespace fastrnn
