// What Python hands to the engine and what the engine asks of its surroundings. Nothing here depends on the
// processor; every variant of the engine sees the same declarations.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fastrnn {

constexpr int max_states = 2;
// Bf16 numbers of 8 bits that are all 24 bits of a float32 number.
constexpr int whole_parts = 3;

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
    const void* bx;          // (G, H) contiguous, or null
    const void* bh;          // (P, H) contiguous, or null
    const int64_t* lengths;  // (N), or null when every sequence has T steps
    int reverse;
    int threads;
    int bf16_parts;  // bf16 numbers that each number of a product may be split into; 0: none

    // Whether the weights of a row lie side by side: they can be read as they are.
    bool rows_lie_along_memory() const { return Wx_col == 1 && Wh_col == 1; }
};

// Steps that a layer has done, for the layer above it where both run at the same time.
class Progress {
  public:
    void reached(ptrdiff_t steps) { done.store(steps, std::memory_order_release); }
    void wait_for(ptrdiff_t steps) const;

  private:
    alignas(64) std::atomic<ptrdiff_t> done{0};
};

struct ForwardCall : Call {
    int keep;
    void* y;  // (T, N, H), zeros past each sequence's end
    ptrdiff_t y_time, y_row;
    void* last[max_states];  // (N, H)
    void* saved;             // `saved_size` numbers if `keep`
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
    ptrdiff_t truncate;             // 0: never
    void* dx;                       // (T, N, D), contiguous, as all that follow
    void* dstate[max_states];       // (N, H)
    void* dWx;                      // (D, G*H)
    void* dWh;                      // (H, P*H)
    void* dslots;                   // (slots, H)
};

// The engine of one cell and number type, compiled for one instruction set.
struct Kernel {
    const char* cell;
    int bytes;                   // of a number
    int bf16_parts;              // as of a call; 0: products of the numbers themselves
    bool (*gains)(const Call&);  // whether splitting numbers makes this call quicker; true where none is split
    size_t (*saved_size)(const Call&);
    int (*threads)(const Call&);  // how many a call can take
    // False if numbers are too large to be split, or not finite: what the call writes is then of no use.
    bool (*forward)(const ForwardCall&);
    bool (*backward)(const BackwardCall&);
};

struct Variant {
    const char* name;
    const Kernel* kernels;
    int count;
};

// Whether the system lets this process use the tile registers of AMX; asks it once.
bool tiles_allowed();

// Memory that lasts until the call ends; throws std::bad_alloc. Of the calling thread: take it before `parallel`.
class Workspace {
  public:
    Workspace();
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    template <class T> T* take(ptrdiff_t count) { return static_cast<T*>(take_bytes(count * sizeof(T))); }

  private:
    void* take_bytes(size_t bytes);
};

// Run `task(context, part)` for every part; by up to `parts` threads at once. Which thread runs a part is not fixed.
void parallel(int parts, void (*task)(void* context, int part), void* context);

// A place where a number of threads wait until all of them have come to it.
class Barrier {
  public:
    explicit Barrier(int threads) : threads(threads) {}
    void wait();

    const int threads;

  private:
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<unsigned> turn{0};
};

// Run `task(context, thread, barrier)` by as many threads as can be had, at most `most`: all at once, so that they may
// wait for each other. `thread` counts from 0 to `barrier.threads`.
void together(int most, void (*task)(void* context, int thread, Barrier& barrier), void* context);

}  // namespace fastrnn
