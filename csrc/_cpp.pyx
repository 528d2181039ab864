# cython: language_level=3, boundscheck=False, wraparound=False
"""The binding of the C++ engine: arrays in, arrays out. Arguments are checked by the callers; see functional.py."""

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
include "arrays.pxi"

cdef const Variant* variant = find_variant(NULL)
cdef vector[Kernels] kernels = all_kernels(variant)


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
    """The numbers of bf16 terms that there are kernels for."""
    return {kernels[0].split[i].bf16_parts for i in range(kernels[0].split.size())}


def kernel(str cell, int item_bytes):
    """Index of the kernels of a cell for elements of `item_bytes` bytes; -1 if there are none."""
    cdef bytes name = cell.encode()
    return find_kernels(kernels, name, item_bytes)


INPUTS = ("none", "step", "chunk", "ahead")


cdef tuple shown(const Path& path):
    """The fields of a path, in the order of `CppPath`."""
    return path.parts, path.by_units, path.bf16_parts, path.packed, INPUTS[<int> path.input], path.merged, path.chunk


cdef Path given_path(tuple fields) except *:
    cdef Path path
    path.parts, path.by_units, path.bf16_parts, path.packed = fields[0], fields[1], fields[2], fields[3]
    path.input, path.merged, path.chunk = <Input> <int> INPUTS.index(fields[4]), fields[5], fields[6]
    return path


cdef int check_path(const char* refusal) except -1:
    if refusal != NULL:
        raise ValueError(f"path: {refusal.decode()}")
    return 0


def last_call():
    """What the last call of this thread did: (fields of the path, steps) of each layer, and layers that ran at once."""
    cdef LastCall* last = &last_call_()
    return [(shown(last.layers[i]), last.layers[i].steps) for i in range(last.layers.size())], last.at_once


cdef int note_call(const Ran& ran) except -1:
    last_call_().layers.assign(1, ran)
    last_call_().at_once = 1
    return 0


cdef cbool signals() noexcept with gil:
    """Whether a signal handler has raised; its exception stays set for `raise_pending`."""
    return PyErr_CheckSignals() != 0


cdef const Stop* watched(Interruptible* interruptible, ptrdiff_t steps, double work):
    """The `Stop` of a call of `work` multiply-adds; NULL if it is short, or signal handlers run in another thread."""
    # Some milliseconds at the lowest rate: even an empty step takes tenths of a microsecond.
    if work + 1000.0 * steps < 5e6 or threading.get_ident() != threading.main_thread().ident:
        return NULL
    return interruptible.begin(signals)


cdef int raise_pending(const Stop* stop) except -1:
    """Raises what a signal handler raised during the call."""
    return -1 if stop != NULL and (<Stop*> stop).requested() else 0


cdef int set_input(Call* call, cnp.ndarray x, int step_axis, int row_axis) except -1:
    """Input of a call: `x` with contiguous rows; `step_axis` is -1 if there is a single step."""
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
    """Wx, Wh, bx and bh as the engine can read them; copies of those that it cannot."""
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
    """Sets direction, flags and reset states; returns the arrays that must outlive the call."""
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
    """Fields of the path that a call would take; arguments as in `forward`."""
    cdef Call call
    cdef tuple given = usable_of(params)
    fill(&call, x, given, threads, bf16_parts)
    return shown(kernels[kernel].backward_path(call) if backward else kernels[kernel].forward_path(call))


def forward(int kernel, cnp.ndarray x, tuple state, dict params, flags, reset_state, bint reverse, bint keep,
            int threads, int bf16_parts, path):
    """One layer and direction: ``state[s] = cell(x[s] Wx + bx, state[s-1] Wh + bh)``; see csrc/forward.h.

    Nothing is checked, and none of the arguments is written to.

    Parameters
    ----------
    kernel : int
        Index from the function `kernel`; its element type is that of all arrays.
    x : array (T, N, D)
        Copied unless its rows are contiguous.
    state : tuple of arrays (N, H)
        States before the first step.
    params : dict
        ``Wx`` (D, gates*H) and ``Wh`` (H, matrices*H) of any strides, ``bx`` (gates*H) and ``bh`` (matrices*H) or None.
    flags : uint8 array (T, N) or None
    reset_state : tuple of arrays (N, H) or None
    keep : bool
        Whether to keep what `backward` needs.
    path : tuple or None
        Fields of the path to take; None for the one that the engine chooses.

    Returns
    -------
    y : array (T, N, H)
    last : tuple of arrays (N, H)
    saved : array or None
    taken : tuple
        Fields of the path that was taken.
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
        check_path(kernels[kernel].forward_refusal(call))
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
        saved = kept_array(typenum, item, kernels[kernel].plain.saved_size(call))
        call.saved = cnp.PyArray_DATA(saved)
    call.stop = watched(&interruptible, call.T, work_of(call, columns(given[0]), columns(given[1])))
    with nogil:
        kernels[kernel].forward(call, ran)
    note_call(ran)
    raise_pending(call.stop)
    return y, tuple(last), saved, shown(ran)


def backward(int kernel, cnp.ndarray x, dict params, flags, reset_state, bint reverse, int threads, int bf16_parts,
             cnp.ndarray y, cnp.ndarray saved, dy, tuple dlast, int slots, path, clip=None, bint per_sequence=False):
    """BPTT of `forward`, whose arguments and results ``y`` and ``saved`` it gets unchanged; see csrc/backward.h.

    Nothing is checked, and none of the arguments is written to.

    Parameters
    ----------
    dy : array (T, N, H) or None
        None for zeros; copied unless its rows are contiguous.
    dlast : tuple of arrays (N, H)
    slots : int
        Number of the cell's gradients ``da`` of a step.
    clip, per_sequence
        See `fastrnn.engine.contract.Options`; with `per_sequence`, dWx, dWh and dslots are (N, ...).

    Returns
    -------
    dx : array (T, N, D)
    dstate : tuple of arrays (N, H)
    dWx, dWh : arrays like Wx, Wh
    dslots : array (slots, H)
        Sums of ``da`` over steps and sequences.
    dreset : tuple of arrays (N, H) or None
    taken : tuple
        Fields of the path that was taken.
    """
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
        check_path(kernels[kernel].backward_refusal(call))
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


include "stack.pxi"
