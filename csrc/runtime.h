// What the binding calls: which variant runs here, and its kernels.
#pragma once

#include <vector>

#include "api.h"

namespace fastrnn {

// The kernels of one cell and number type: of the numbers as they are, and of split ones, best first.
struct Kernels {
    const Kernel* whole;
    std::vector<const Kernel*> split;

    const Kernel& of(const Call& call) const {
        for (const Kernel* kernel : split)
            if (kernel->bf16_parts == call.bf16_parts && kernel->gains(call)) return *kernel;
        return *whole;
    }
    void forward(const ForwardCall& call) const {
        if (!of(call).forward(call)) whole->forward(call);
    }
    void backward(const BackwardCall& call) const {
        if (!of(call).backward(call)) whole->backward(call);
    }
};

// The best variant that this processor can run; the one called `wanted`, if that is given and can run.
const Variant* find_variant(const char* wanted);

// Names of all variants, best first, a blank after each.
const char* variant_names();

// For every cell and number type the kernels of a variant and of those below it.
std::vector<Kernels> all_kernels(const Variant* variant);

// Index of the kernels of a cell and number type, or -1.
int find_kernels(const std::vector<Kernels>& kernels, const char* cell, int bytes);

// The forward pass of layers over each other, each one's `y` the next one's `x`; at the same time where that is all
// that several threads can do.
void forward_layers(const Kernels& kernels, ForwardCall* calls, int layers, int threads);

// Memory for what a forward pass keeps, null if there is none; `give_buffer` takes it back, for the next one.
void* take_buffer(size_t bytes);
void give_buffer(void* at, size_t bytes);

}  // namespace fastrnn
