# cython: language_level=3, boundscheck=False, wraparound=False
"""The binding of the C++ engine: arrays in, arrays out. All checks are done before; see functional.py."""

cimport cython
cimport numpy as cnp
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.stddef cimport ptrdiff_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

import threading

import numpy as np

from fastrnn import thresholds
from fastrnn.engine.contract import LayerGradients
from fastrnn.engine.flags import with_cuts
from fastrnn.engine.precision import PARTS

cnp.import_array()

include "engine.pxi"

cdef const Variant* variant = find_variant(NULL)
cdef vector[Kernels] kernels = all_kernels(variant)
cdef enum:
    LINE = 64
    SMALL = 1024


def variants():
    """Names of the instruction sets that this processor can run, best first."""
    return tuple(name for name in variant_names().decode().split() if find_variant(name.encode()) != NULL)


def variant_name():
    """Name of the instruction set in use."""
    return variant.name.decode()


def use_variant(str name):
    """Use the engine of another instruction set; returns whether this processor can run it."""
    global variant, kernels
    cdef bytes wanted = name.encode()
    cdef const Variant* found = find_variant(wanted)
    if found != NULL:
        variant = found
        kernels = all_kernels(found)
    return found != NULL


def bf16_parts():
    """Numbers of bf16 parts that there are kernels for."""
    return {kernels[0].split[i].bf16_parts for i in range(kernels[0].split.size())}


def kernel(str cell, int item_bytes):
    """Number of the kernels of a cell for numbers of `item_bytes`; -1 if there are none."""
    cdef bytes name = cell.encode()
    return find_kernels(kernels, name, item_bytes)


cdef bint behaved(cnp.ndarray array):
    """Whether addresses are multiples of the numbers' size, strides with them, and bytes in this machine's order."""
    return cnp.PyArray_ISALIGNED(array) and cnp.PyArray_ISNOTSWAPPED(array)


INPUTS = ("none", "step", "chunk", "ahead")


cdef tuple shown(const Path& path):
    """The fields of a path, in the order of `CppPath`."""
    return path.parts, path.by_units, path.bf16_parts, path.packed, INPUTS[<int> path.input], path.merged, path.chunk


cdef Path given_path(tuple fields) except *:
    cdef Path path
    path.parts, path.by_units, path.bf16_parts, path.packed = fields[0], fields[1], fields[2], fields[3]
    path.input, path.merged, path.chunk = <Input> <int> INPUTS.index(fields[4]), fields[5], fields[6]
    return path


cdef int check_path(const char* hindrance) except -1:
    if hindrance != NULL:
        raise ValueError(f"path: {hindrance.decode()}")
    return 0


def last_call():
    """What this thread's last call did: (fields of the path, steps) of each layer, and layers that ran at once."""
    cdef LastCall* last = &last_call_()
    return [(shown(last.layers[i]), last.layers[i].steps) for i in range(last.layers.size())], last.at_once


cdef int note_call(const Ran& ran) except -1:
    last_call_().layers.assign(1, ran)
    last_call_().at_once = 1
    return 0


cdef cbool signals() noexcept with gil:
    """Whether a handler of a signal has raised; its exception stays set for `raise_pending`."""
    return PyErr_CheckSignals() != 0


cdef const Stop* watched(Interruptible* interruptible, ptrdiff_t steps, double work):
    """The stop of a call of so many multiply-adds, if it is long and handlers of signals run in this thread."""
    # Milliseconds, at the lowest rate there is: a step of nothing takes some tenths of a microsecond.
    if work + 1000.0 * steps < 5e6 or threading.get_ident() != threading.main_thread().ident:
        return NULL
    return interruptible.begin(signals)


cdef int raise_pending(const Stop* stop) except -1:
    """Raises what the handler of a signal raised during the call."""
    return -1 if stop != NULL and (<Stop*> stop).requested() else 0


cdef cnp.ndarray contiguous_rows(cnp.ndarray array):
    """`array` (.., .., D) itself if its rows are contiguous, else a copy."""
    cdef int last = cnp.PyArray_NDIM(array) - 1
    cdef bint unit = cnp.PyArray_STRIDE(array, last) == cnp.PyArray_ITEMSIZE(array) or cnp.PyArray_DIM(array, last) == 1
    return array if unit and behaved(array) else np.array(array, order="C")


cdef cnp.ndarray strided(cnp.ndarray array):
    return array if behaved(array) else np.array(array, order="C")


cdef cnp.ndarray contiguous(cnp.ndarray array):
    return array if cnp.PyArray_IS_C_CONTIGUOUS(array) and behaved(array) else np.array(array, order="C")


cdef cnp.ndarray empty(int typenum, ptrdiff_t a, ptrdiff_t b):
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = a, b
    return cnp.PyArray_EMPTY(2, shape, typenum, 0)


cdef cnp.ndarray aligned(int typenum, int item, int ndim, cnp.npy_intp* shape):
    """An array that begins at a cache line, unless it is so small that a second object would cost more."""
    cdef cnp.npy_intp size = LINE // item
    cdef cnp.npy_intp count = 1
    for i in range(ndim):
        count *= shape[i]
    if count * item <= SMALL:
        return cnp.PyArray_EMPTY(ndim, shape, typenum, 0)
    size += count
    cdef cnp.ndarray memory = cnp.PyArray_EMPTY(1, &size, typenum, 0)
    cdef char* start = <char*> cnp.PyArray_DATA(memory)
    start += (LINE - <uintptr_t> start % LINE) % LINE
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(ndim, shape, typenum, start)
    cnp.set_array_base(array, memory)
    return array


cdef class Buffer:
    """Memory that is given back for the next forward pass when the last array in it is gone."""

    cdef void* at
    cdef size_t size

    def __cinit__(self, size_t size):
        self.size = size
        self.at = take_buffer(size)
        if self.at == NULL:
            raise MemoryError(f"{size} bytes for what BPTT needs")

    def __dealloc__(self):
        if self.at != NULL:
            give_buffer(self.at, self.size)


cdef cnp.ndarray kept_array(int typenum, int item, cnp.npy_intp count):
    """An array for what a forward pass keeps, beginning at a cache line."""
    if count * item < <cnp.npy_intp> huge_page:
        return aligned(typenum, item, 1, &count)
    cdef Buffer buffer = Buffer(count * item)
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(1, &count, typenum, buffer.at)
    cnp.set_array_base(array, buffer)
    return array


cdef int set_input(Call* call, cnp.ndarray x, int step_axis, int row_axis) except -1:
    """`x` with contiguous rows; `step_axis` -1 where there is one step."""
    cdef int item = cnp.PyArray_ITEMSIZE(x)
    call.T, call.x_time = 1, 0
    if step_axis >= 0:
        call.T, call.x_time = cnp.PyArray_DIM(x, step_axis), cnp.PyArray_STRIDE(x, step_axis) // item
    call.N, call.x_row = cnp.PyArray_DIM(x, row_axis), cnp.PyArray_STRIDE(x, row_axis) // item
    call.D = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    call.x = cnp.PyArray_DATA(x)
    return 0


cdef int set_params(Call* call, cnp.ndarray Wx, cnp.ndarray Wh, bx, bh) except -1:
    cdef int item = cnp.PyArray_ITEMSIZE(Wx)
    call.H = cnp.PyArray_DIM(Wh, 0)
    call.Wx = cnp.PyArray_DATA(Wx)
    call.Wx_row, call.Wx_col = cnp.PyArray_STRIDE(Wx, 0) // item, cnp.PyArray_STRIDE(Wx, 1) // item
    call.Wh = cnp.PyArray_DATA(Wh)
    call.Wh_row, call.Wh_col = cnp.PyArray_STRIDE(Wh, 0) // item, cnp.PyArray_STRIDE(Wh, 1) // item
    call.bx = NULL if bx is None else cnp.PyArray_DATA(<cnp.ndarray> bx)
    call.bh = NULL if bh is None else cnp.PyArray_DATA(<cnp.ndarray> bh)
    return 0


cdef tuple usable(tuple arrays):
    """Wx, Wh, bx and bh as the engine reads them; copies where it could not."""
    return (
        strided(arrays[0]),
        strided(arrays[1]),
        None if arrays[2] is None else contiguous(arrays[2]),
        None if arrays[3] is None else contiguous(arrays[3]),
    )


cdef tuple usable_of(dict params):
    return usable((params["Wx"], params["Wh"], params.get("bx"), params.get("bh")))


cdef ptrdiff_t columns(cnp.ndarray matrix):
    return cnp.PyArray_DIM(matrix, 1)


cdef int fill(Call* call, cnp.ndarray x, tuple params, int threads, int bf16_parts) except -1:
    set_input(call, x, 0, 1)
    set_params(call, params[0], params[1], params[2], params[3])
    call.threads, call.bf16_parts = threads, bf16_parts
    return 0


cdef list set_flags(Call* call, flags, reset_state, bint reverse):
    """The arrays that the call refers to."""
    cdef list alive = []
    cdef cnp.ndarray array
    call.reverse = reverse
    if flags is not None:
        array = contiguous(flags)
        alive.append(array)
        call.flags = <const uint8_t*> cnp.PyArray_DATA(array)
    for i in range(0 if reset_state is None else len(reset_state)):
        array = contiguous(reset_state[i])
        alive.append(array)
        call.reset[i] = cnp.PyArray_DATA(array)
    return alive


cdef double work_of(const Call& call, ptrdiff_t gates, ptrdiff_t matrices):
    """Multiply-adds of a forward pass, given the columns of both weights."""
    return <double> call.T * call.N * (call.D * gates + call.H * matrices)


def path(int kernel, cnp.ndarray x, dict params, int threads, int bf16_parts, bint backward):
    """Fields of the path that a call would take."""
    cdef Call call
    cdef tuple given = usable_of(params)
    fill(&call, x, given, threads, bf16_parts)
    return shown(kernels[kernel].backward_path(call) if backward else kernels[kernel].forward_path(call))


def forward(int kernel, cnp.ndarray x, tuple state, dict params, flags, reset_state, bint reverse, bint keep,
            int threads, int bf16_parts, path):
    """Returns y (T, N, H), the last states, what `backward` needs, and the fields of the path that was taken.

    `path` are the fields of one, or None for the one that is chosen.
    """
    cdef ForwardCall call
    cdef Interruptible interruptible
    cdef Ran ran
    cdef int item = cnp.PyArray_ITEMSIZE(x), typenum = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray array, y, saved = None
    cdef cnp.npy_intp shape[3]
    cdef tuple given = usable_of(params)
    cdef list last = [], alive
    x = contiguous_rows(x)
    fill(&call, x, given, threads, bf16_parts)
    alive = set_flags(&call, flags, reset_state, reverse)
    if path is None:
        call.path = kernels[kernel].forward_path(call)
    else:
        call.path = given_path(path)
        check_path(kernels[kernel].forward_hindrance(call))
    for i in range(len(state)):
        array = contiguous(state[i])
        alive.append(array)
        call.state[i] = cnp.PyArray_DATA(array)
        array = empty(typenum, call.N, call.H)
        last.append(array)
        call.last[i] = cnp.PyArray_DATA(array)
    shape[0], shape[1], shape[2] = call.T, call.N, call.H
    y = aligned(typenum, item, 3, shape)
    call.y, call.y_time, call.y_row = cnp.PyArray_DATA(y), call.N * call.H, call.H
    call.keep = keep
    if keep:
        saved = kept_array(typenum, item, kernels[kernel].whole.saved_size(call))
        call.saved = cnp.PyArray_DATA(saved)
    call.stop = watched(&interruptible, call.T, work_of(call, columns(given[0]), columns(given[1])))
    with nogil:
        kernels[kernel].forward(call, ran)
    note_call(ran)
    raise_pending(call.stop)
    return y, tuple(last), saved, shown(ran)


def backward(int kernel, cnp.ndarray x, dict params, flags, reset_state, bint reverse, int threads, int bf16_parts,
             cnp.ndarray y, cnp.ndarray saved, dy, tuple dlast, int slots, path, clip=None, bint per_sequence=False):
    """Returns dx, the gradients of the first states, dWx, dWh, the sums over `da`, the gradients of the reset states
    (None where there are none), and the path as `forward` does."""
    cdef BackwardCall call
    cdef Interruptible interruptible
    cdef Ran ran
    cdef ptrdiff_t count
    cdef int item = cnp.PyArray_ITEMSIZE(x), typenum = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray array, dx, dWx, dWh, dslots
    cdef cnp.npy_intp shape[3]
    cdef tuple given = usable_of(params)
    cdef list dstate = [], dreset = [], alive
    x = contiguous_rows(x)
    fill(&call, x, given, threads, bf16_parts)
    alive = set_flags(&call, flags, reset_state, reverse)
    set_options(&call, clip, per_sequence)
    if path is None:
        call.path = kernels[kernel].backward_path(call)
    else:
        call.path = given_path(path)
        check_path(kernels[kernel].backward_hindrance(call))
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
        if reset_state is not None:
            array = empty(typenum, call.N, call.H)
            dreset.append(array)
            call.dreset[i] = cnp.PyArray_DATA(array)
    shape[0], shape[1], shape[2] = call.T, call.N, call.D
    dx = aligned(typenum, item, 3, shape)
    count = call.N if per_sequence else -1
    dWx = gradient(typenum, count, call.D, cnp.PyArray_DIM(<cnp.ndarray> params["Wx"], 1))
    dWh = gradient(typenum, count, call.H, cnp.PyArray_DIM(<cnp.ndarray> params["Wh"], 1))
    dslots = gradient(typenum, count, slots, call.H)
    call.dx, call.dWx, call.dWh = cnp.PyArray_DATA(dx), cnp.PyArray_DATA(dWx), cnp.PyArray_DATA(dWh)
    call.dslots = cnp.PyArray_DATA(dslots)
    call.stop = watched(&interruptible, call.T, 2 * work_of(call, columns(given[0]), columns(given[1])))
    with nogil:
        kernels[kernel].backward(call, ran)
    note_call(ran)
    raise_pending(call.stop)
    return dx, tuple(dstate), dWx, dWh, dslots, None if reset_state is None else tuple(dreset), shown(ran)


cdef int set_options(BackwardCall* call, clip, bint per_sequence) except -1:
    """What a backward pass does beside plain BPTT; see `fastrnn.engine.contract.Options`."""
    call.per_sequence = per_sequence
    call.clip, call.clip_norm = (0, False) if clip is None else clip
    return 0


cdef cnp.ndarray gradient(int typenum, ptrdiff_t count, ptrdiff_t rows, ptrdiff_t columns):
    """An array (rows, columns), or `count` of them if that is not negative."""
    if count < 0:
        return empty(typenum, rows, columns)
    # Of many sequences they are large: in memory that is used again, as new pages take longer than the products.
    cdef int item = 4 if typenum == cnp.NPY_FLOAT else 8
    return kept_array(typenum, item, count * rows * columns).reshape(count, rows, columns)


cdef bint is_array(object value, int typenum, int ndim, ptrdiff_t a, ptrdiff_t b, ptrdiff_t c):
    """Whether `value` is a well-behaved array of a type and shape; only the first `ndim` sizes count."""
    if type(value) is not cnp.ndarray or not behaved(value) or cnp.PyArray_TYPE(<cnp.ndarray> value) != typenum:
        return False
    if cnp.PyArray_NDIM(<cnp.ndarray> value) != ndim or cnp.PyArray_DIM(<cnp.ndarray> value, 0) != a:
        return False
    if ndim > 1 and cnp.PyArray_DIM(<cnp.ndarray> value, 1) != b:
        return False
    return ndim < 3 or cnp.PyArray_DIM(<cnp.ndarray> value, 2) == c


include "stack.pxi"
