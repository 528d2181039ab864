# cython: language_level=3, boundscheck=False, wraparound=False
"""The binding of the C++ engine: arrays in, arrays out. All checks are done before; see functional.py."""

cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t, uintptr_t
from libc.stddef cimport ptrdiff_t

import numpy as np

cnp.import_array()

cdef extern from "runtime.h" namespace "fastrnn" nogil:
    cdef cppclass Call:
        ptrdiff_t T, N, D, H
        const void* x
        ptrdiff_t x_time, x_row
        const void* state[2]
        const void* Wx
        ptrdiff_t Wx_row, Wx_col
        const void* Wh
        ptrdiff_t Wh_row, Wh_col
        const void* bx
        const void* bh
        const int64_t* lengths
        int reverse, threads
    cdef cppclass ForwardCall(Call):
        int keep
        void* y
        ptrdiff_t y_time, y_row
        void* last[2]
        void* saved
    cdef cppclass BackwardCall(Call):
        const void* y
        ptrdiff_t y_time, y_row
        const void* saved
        const void* dy
        ptrdiff_t dy_time, dy_row
        const void* dlast[2]
        ptrdiff_t truncate
        void* dx
        void* dstate[2]
        void* dWx
        void* dWh
        void* dslots
    cdef cppclass Kernel:
        const char* cell
        int bytes
        size_t (*saved_size)(const Call&) noexcept nogil
        void (*forward)(const ForwardCall&) except + nogil
        void (*backward)(const BackwardCall&) except + nogil
    cdef cppclass Variant:
        const char* name
        const Kernel* kernels
        int count
    const Variant* find_variant(const char* wanted)
    int find_kernel(const Variant* variant, const char* cell, int bytes)

cdef const Variant* variant = find_variant(NULL)
cdef enum:
    LINE = 64


def variant_name():
    """Name of the instruction set in use."""
    return variant.name.decode()


def use_variant(str name):
    """Use the engine of another instruction set; returns whether this processor can run it."""
    global variant
    cdef bytes wanted = name.encode()
    cdef const Variant* found = find_variant(wanted)
    if found != NULL:
        variant = found
    return found != NULL


def kernel(str cell, int item_bytes):
    """Number of the kernel of a cell for numbers of `item_bytes`; -1 if there is none."""
    cdef bytes name = cell.encode()
    return find_kernel(variant, name, item_bytes)


cdef cnp.ndarray contiguous_rows(cnp.ndarray array):
    """`array` (.., .., D) itself if its rows are contiguous, else a copy."""
    cdef int last = cnp.PyArray_NDIM(array) - 1
    if cnp.PyArray_STRIDE(array, last) == cnp.PyArray_ITEMSIZE(array) or cnp.PyArray_DIM(array, last) == 1:
        return array
    return np.ascontiguousarray(array)


cdef cnp.ndarray contiguous(cnp.ndarray array):
    return array if cnp.PyArray_IS_C_CONTIGUOUS(array) else np.ascontiguousarray(array)


cdef cnp.ndarray empty(int typenum, ptrdiff_t a, ptrdiff_t b):
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = a, b
    return cnp.PyArray_EMPTY(2, shape, typenum, 0)


cdef cnp.ndarray aligned(int typenum, int item, ptrdiff_t count):
    """`count` numbers that begin at a cache line."""
    cdef cnp.npy_intp size = count + LINE // item
    cdef cnp.ndarray array = cnp.PyArray_EMPTY(1, &size, typenum, 0)
    cdef ptrdiff_t start = (LINE - <uintptr_t> cnp.PyArray_DATA(array) % LINE) % LINE // item
    return array[start:start + count]


cdef const void* row(dict params, str name, list alive) except? NULL:
    """Numbers of a parameter (n,), or NULL if it is not given; `alive` holds the copy that may be needed."""
    cdef object array = params.get(name)
    if array is None:
        return NULL
    array = contiguous(array)
    alive.append(array)
    return cnp.PyArray_DATA(<cnp.ndarray> array)


cdef int fill(Call* call, cnp.ndarray x, dict params, lengths, bint reverse, int threads,
              list alive) except -1:
    cdef int item = cnp.PyArray_ITEMSIZE(x)
    cdef cnp.ndarray Wx = params["Wx"], Wh = params["Wh"]
    call.T, call.N, call.D = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), cnp.PyArray_DIM(x, 2)
    call.H = cnp.PyArray_DIM(Wh, 0)
    call.x = cnp.PyArray_DATA(x)
    call.x_time, call.x_row = cnp.PyArray_STRIDE(x, 0) // item, cnp.PyArray_STRIDE(x, 1) // item
    call.Wx = cnp.PyArray_DATA(Wx)
    call.Wx_row, call.Wx_col = cnp.PyArray_STRIDE(Wx, 0) // item, cnp.PyArray_STRIDE(Wx, 1) // item
    call.Wh = cnp.PyArray_DATA(Wh)
    call.Wh_row, call.Wh_col = cnp.PyArray_STRIDE(Wh, 0) // item, cnp.PyArray_STRIDE(Wh, 1) // item
    call.bx, call.bh = row(params, "bx", alive), row(params, "bh", alive)
    call.lengths = NULL
    if lengths is not None:
        call.lengths = <const int64_t*> cnp.PyArray_DATA(<cnp.ndarray> lengths)
    call.reverse, call.threads = reverse, threads
    return 0


def forward(int kernel, cnp.ndarray x, tuple state, dict params, lengths, bint reverse, bint keep, int threads):
    """Returns y (T, N, H), the last states, and what `backward` needs."""
    cdef ForwardCall call
    cdef const Kernel* engine = &variant.kernels[kernel]
    cdef int item = engine.bytes, typenum = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray array, y, saved = None
    cdef list last = [], alive = []
    x = contiguous_rows(x)
    fill(&call, x, params, lengths, reverse, threads, alive)
    for i in range(len(state)):
        array = contiguous(state[i])
        alive.append(array)
        call.state[i] = cnp.PyArray_DATA(array)
        array = empty(typenum, call.N, call.H)
        last.append(array)
        call.last[i] = cnp.PyArray_DATA(array)
    y = aligned(typenum, item, call.T * call.N * call.H)
    y = y.reshape(call.T, call.N, call.H)
    call.y, call.y_time, call.y_row = cnp.PyArray_DATA(y), call.N * call.H, call.H
    call.keep = keep
    if keep:
        saved = aligned(typenum, item, engine.saved_size(call))
        call.saved = cnp.PyArray_DATA(saved)
    with nogil:
        engine.forward(call)
    return y, tuple(last), saved


def backward(int kernel, cnp.ndarray x, dict params, lengths, bint reverse, int threads, cnp.ndarray y,
             cnp.ndarray saved, dy, tuple dlast, ptrdiff_t truncate, int slots):
    """Returns dx, the gradients of the first states, dWx, dWh, and the sums over `da`."""
    cdef BackwardCall call
    cdef const Kernel* engine = &variant.kernels[kernel]
    cdef int item = engine.bytes, typenum = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray array, dx, dWx, dWh, dslots
    cdef list dstate = [], alive = []
    x = contiguous_rows(x)
    fill(&call, x, params, lengths, reverse, threads, alive)
    call.y, call.y_time, call.y_row = cnp.PyArray_DATA(y), call.N * call.H, call.H
    call.saved = cnp.PyArray_DATA(saved)
    call.dy = NULL
    if dy is not None:
        dy = contiguous_rows(dy)
        call.dy = cnp.PyArray_DATA(<cnp.ndarray> dy)
        call.dy_time = cnp.PyArray_STRIDE(<cnp.ndarray> dy, 0) // item
        call.dy_row = cnp.PyArray_STRIDE(<cnp.ndarray> dy, 1) // item
    for i in range(len(dlast)):
        array = contiguous(dlast[i])
        alive.append(array)
        call.dlast[i] = cnp.PyArray_DATA(array)
        array = empty(typenum, call.N, call.H)
        dstate.append(array)
        call.dstate[i] = cnp.PyArray_DATA(array)
    call.truncate = truncate
    dx = empty(typenum, call.T * call.N, call.D)
    dWx = empty(typenum, call.D, cnp.PyArray_DIM(<cnp.ndarray> params["Wx"], 1))
    dWh = empty(typenum, call.H, cnp.PyArray_DIM(<cnp.ndarray> params["Wh"], 1))
    dslots = empty(typenum, slots, call.H)
    call.dx, call.dWx, call.dWh = cnp.PyArray_DATA(dx), cnp.PyArray_DATA(dWx), cnp.PyArray_DATA(dWh)
    call.dslots = cnp.PyArray_DATA(dslots)
    with nogil:
        engine.backward(call)
    return dx.reshape(call.T, call.N, call.D), tuple(dstate), dWx, dWh, dslots
