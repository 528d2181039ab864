// Stacks of layers, in one direction or both, and what is between two layers.
#pragma once

#include "runtime.h"

namespace fastrnn {

// Dropout between layers: element i of `count` is kept if the upper half of hash(key + (i + 1) * odd constant) is at
// least `threshold`, and then multiplied by `scale`; see fastrnn/engine/dropout.py. Nothing is dropped where `from` is
// null.
struct Drop {
    const void* from = nullptr;
    void* to = nullptr;  // may be `from`
    ptrdiff_t count = 0;
    uint64_t key = 0, threshold = 0;
    double scale = 1;
};

// What is done between BPTT of a layer and of the one below: dx += other, with two directions, then dropout.
struct Join {
    void* dx = nullptr;
    const void* other = nullptr;  // null with one direction
    ptrdiff_t count = 0;
    Drop drop;  // of the layer's input, or none
};

// A finished gradient (rows, columns), contiguous, and where it goes: any strides, written or added.
struct Finished {
    const void* from;
    ptrdiff_t rows, columns;
    void* to;
    ptrdiff_t row, col;
};

// The forward pass: `directions` calls a layer, which run in a thread each where `apart[layer]`. The `y` of a layer is
// the `x` of the next one, after dropout by `drops[layer]` if there is any. `threads` is the limit for all layers
// together. False if the call was stopped.
bool forward_stack(const Kernels& kernels, std::vector<ForwardCall>& calls, int directions, int threads,
                   const std::vector<char>& apart, const std::vector<Drop>& drops);

// The backward pass, from the last layer to the first; `joins` has one entry a layer. False if the call was stopped.
bool backward_stack(const Kernels& kernels, std::vector<BackwardCall>& calls, int directions,
                    const std::vector<char>& apart, const std::vector<Join>& joins);

// Writes or adds finished gradients of elements of `bytes` bytes.
void finish(const std::vector<Finished>& gradients, int bytes, bool add);

}  // namespace fastrnn
