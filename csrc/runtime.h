// What the binding calls: which variant runs here, and its kernels.
#pragma once

#include "api.h"

namespace fastrnn {

// The best variant that this processor can run; the one called `wanted`, if that is given and can run.
const Variant* find_variant(const char* wanted);

// Names of all variants, best first, a blank after each.
const char* variant_names();

// Index of a kernel of `variant`, or -1.
int find_kernel(const Variant* variant, const char* cell, int bytes);

// Memory for what a forward pass keeps, null if there is none; `give_buffer` takes it back, for the next one.
void* take_buffer(size_t bytes);
void give_buffer(void* at, size_t bytes);

}  // namespace fastrnn
