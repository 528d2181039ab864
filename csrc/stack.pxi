# Stacks of layers: forward and BPTT with no Python code between the layers.

cdef class Kept:
    """What a forward pass keeps: input and output of every layer, and what the engine saved of every call."""

    cdef list inputs, outputs, saved
    cdef object flags, draw
    cdef tuple fresh
    cdef int most, bf16_parts


cdef class Stack:
    """See `fastrnn.engine.contract.Stack`.

    Parameters
    ----------
    cell : str
    layout : Layout
    arrays : list of (Wx, Wh, bx, bh)
        For each layer and direction; the biases may be None.
    states, gates, matrices : int
    terms : tuple of (matrix, slot)
        For each recurrent bias the slot whose sum is its gradient.
    slots : int
    """

    cdef object layout, now
    cdef list arrays
    cdef tuple names, terms
    cdef ptrdiff_t D, H
    cdef int states, gates, matrices, slots, directions, layers, item, typenum, number, most, bf16_parts
    cdef bint batch_first, reverse, copied
    cdef vector[ForwardCall] prepared

    def __init__(self, str cell, layout, list arrays, int states, int gates, int matrices, tuple terms, int slots):
        self.layout, self.arrays, self.names, self.terms = layout, arrays, layout.names, terms
        self.D, self.H, self.directions = layout.input_size, layout.hidden_size, layout.directions
        self.batch_first, self.reverse, self.layers = layout.batch_first, layout.reverse, layout.num_layers
        self.states, self.gates, self.matrices, self.slots = states, gates, matrices, slots
        self.item = layout.dtype.itemsize
        self.typenum = cnp.NPY_FLOAT if self.item == 4 else cnp.NPY_DOUBLE
        self.number = kernel(cell, self.item)
        self.prepared.resize(len(arrays))
        for i, (Wx, Wh, bx, bh) in enumerate(arrays):
            set_params(<Call*> &self.prepared[i], Wx, Wh, bx, bh)
            self.prepared[i].reverse = i % 2 if self.directions == 2 else self.reverse
            whole = all(one is None or (behaved(one) and cnp.PyArray_IS_C_CONTIGUOUS(one)) for one in (bx, bh))
            self.copied |= not (whole and behaved(Wx) and behaved(Wh))

    def quick(self, x, state, int ndim, now, bint keep):
        """Outputs, last states and what was kept; None for arguments that only the slower, checking way takes."""
        cdef tuple first, last
        cdef cnp.ndarray y
        cdef Kept kept
        if type(x) is not cnp.ndarray or cnp.PyArray_NDIM(<cnp.ndarray> x) != ndim:
            return None
        if cnp.PyArray_TYPE(<cnp.ndarray> x) != self.typenum or not behaved(x):
            return None
        if cnp.PyArray_DIM(<cnp.ndarray> x, ndim - 1) != self.D or cnp.PyArray_SIZE(<cnp.ndarray> x) == 0:
            return None
        if ndim == 2 and (self.directions == 2 or self.reverse):
            return None
        if ndim == 3 and self.batch_first:
            x = cnp.PyArray_SwapAxes(<cnp.ndarray> x, 0, 1)
        first = self.states_in(state, cnp.PyArray_DIM(<cnp.ndarray> x, ndim - 2))
        if first is None and state is not None:
            return None
        y, last, kept = self.run(contiguous_rows(x), ndim, first, None, None, now, keep, None)
        if ndim == 3 and self.batch_first:
            y = cnp.PyArray_SwapAxes(y, 0, 1)
        if keep:
            cnp.PyArray_CLEARFLAGS(y, cnp.NPY_ARRAY_WRITEABLE)
        return y, (last[0] if self.states == 1 else last), kept

    def forward(self, given, now, bint keep):
        """See `fastrnn.engine.contract.Stack`."""
        x, state, flags, fresh, draw = given
        first = None if state is None else tuple([contiguous(one) for one in state])
        fresh = None if fresh is None else tuple([contiguous(one) for one in fresh])
        return self.run(contiguous_rows(x), 3, first, flags, fresh, now, keep, draw)

    cdef tuple states_in(self, given, ptrdiff_t N):
        """The states as contiguous arrays; None if they are of another type or shape."""
        if given is None:
            return None
        if self.states == 1:
            if not is_array(given, self.typenum, 3, self.prepared.size(), N, self.H):
                return None
            return (contiguous(given),)
        if not isinstance(given, (tuple, list)) or len(given) != self.states:
            return None
        for one in given:
            if not is_array(one, self.typenum, 3, self.prepared.size(), N, self.H):
                return None
        return tuple([contiguous(one) for one in given])

    cdef tuple states_out(self, ptrdiff_t N):
        """An uninitialised array (calls, N, H) for each state."""
        cdef cnp.npy_intp shape[3]
        shape[0], shape[1], shape[2] = self.prepared.size(), N, self.H
        if self.states == 1:
            return (cnp.PyArray_EMPTY(3, shape, self.typenum, 0),)
        return tuple([cnp.PyArray_EMPTY(3, shape, self.typenum, 0) for _ in range(self.states)])

    cdef cnp.ndarray rows_out(self, ptrdiff_t T, ptrdiff_t N, ptrdiff_t columns, int ndim):
        cdef cnp.npy_intp shape[3]
        shape[0], shape[1], shape[2] = T, N, columns
        return aligned(self.typenum, self.item, ndim, shape + 3 - ndim)

    cdef ptrdiff_t input_of(self, int i):
        """Number of features of the input of call `i`."""
        return self.D if i < self.directions else self.directions * self.H

    cdef double work_of(self, const Call* call):
        """Multiply-adds of a forward pass."""
        return <double> call.T * call.N * self.H * (call.D * self.gates + self.H * self.matrices)

    cdef bint runs_apart(self, ptrdiff_t N, double work, int most) except -1:
        """Whether the two directions of a layer run in a thread each: if the batch cannot be divided."""
        return self.directions == 2 and most > 1 and min(N, work / worth_a_thread()) < 2

    cdef int set_states(self, Call* call, int i, tuple first, tuple fresh) except -1:
        """Sets the first states and the reset states of call `i`."""
        cdef int k
        cdef ptrdiff_t shift = i * call.N * self.H * self.item
        for k in range(self.states):
            call.state[k] = call.reset[k] = NULL
            if first is not None:
                call.state[k] = <char*> cnp.PyArray_DATA(<cnp.ndarray> first[k]) + shift
            if fresh is not None:
                call.reset[k] = <char*> cnp.PyArray_DATA(<cnp.ndarray> fresh[k]) + shift
        return 0

    cdef int set_output(self, const void** at, ptrdiff_t* time, ptrdiff_t* row, cnp.ndarray y, int d) except -1:
        """A direction's share of `y` (T, N, directions*H) or (N, directions*H), rows contiguous."""
        cdef int last = cnp.PyArray_NDIM(y) - 1
        at[0] = <char*> cnp.PyArray_DATA(y) + d * self.H * self.item
        time[0] = cnp.PyArray_STRIDE(y, 0) // self.item
        row[0] = cnp.PyArray_STRIDE(y, last - 1) // self.item
        return 0

    cdef int read_settings(self, now) except -1:
        if now is not self.now:
            self.most, self.bf16_parts, self.now = now.num_threads, PARTS[now.matmul_precision], now
        return 0

    cdef list own_params(self, Call* call, ptrdiff_t i):
        """Parameters of call `i`, copied where the engine cannot read them."""
        cdef tuple arrays = usable(self.arrays[i])
        set_params(call, arrays[0], arrays[1], arrays[2], arrays[3])
        return list(arrays)

    cdef tuple run(self, cnp.ndarray x, int ndim, tuple first, flags, tuple fresh, now, bint keep, draw):
        """Outputs, last states, and a Kept or None; the arguments were checked.

        x (T, N, D) or (N, D), rows contiguous; `first` and `fresh` contiguous (calls, N, H) or None; flags (T, N).
        """
        cdef vector[ForwardCall] calls = self.prepared
        cdef vector[Drop] drops
        cdef vector[char] apart
        cdef ForwardCall* call
        cdef Interruptible interruptible
        cdef const Stop* stop
        cdef int n = calls.size(), i, k, d, threads, most, parts
        cdef ptrdiff_t T, N, F = self.directions * self.H
        cdef double work, total = 0
        cdef bint split = False
        cdef cnp.ndarray y = None, saved
        # Lists are made only if needed: they cost a tenth of a short call.
        cdef list outputs = [] if keep or n > 1 else None, inputs = [] if keep else None
        cdef list memory = [] if keep else None, copies = None
        cdef tuple last
        cdef Kept kept = None
        self.read_settings(now)
        most, parts = self.most, self.bf16_parts
        set_input(<Call*> &calls[0], x, ndim - 3, ndim - 2)
        T, N = calls[0].T, calls[0].N
        last = self.states_out(N)
        if draw is not None:
            drops.resize(self.layers)
        for i in range(n):
            call, d = &calls[i], i % self.directions
            if d == 0:
                if i:
                    x = y
                    if draw is not None:
                        x = self.rows_out(T, N, F, 3)
                        set_drop(&drops[i // self.directions], draw, i // self.directions, y, x)
                y = self.rows_out(T, N, F, ndim)
                if outputs is not None:
                    outputs.append(y)
                if keep:
                    inputs.append(x)
            set_input(<Call*> call, x, ndim - 3, ndim - 2)
            if self.copied:
                copies = copies or []
                copies.append(self.own_params(<Call*> call, i))
            if flags is not None:
                call.flags = <const uint8_t*> cnp.PyArray_DATA(<cnp.ndarray> flags)
            self.set_states(<Call*> call, i, first, fresh)
            for k in range(self.states):
                call.last[k] = <char*> cnp.PyArray_DATA(<cnp.ndarray> last[k]) + i * N * self.H * self.item
            self.set_output(<const void**> &call.y, &call.y_time, &call.y_row, y, d)
            call.bf16_parts, call.keep = parts, keep
            work = self.work_of(<Call*> call)
            if d == 0:
                split = self.runs_apart(N, work, most)
                apart.push_back(split)
            call.threads = 1 if split else threads_for(work, most)
            total += work
            if keep:
                saved = kept_array(self.typenum, self.item, kernels[self.number].plain.saved_size(call[0]))
                memory.append(saved)
                call.saved = cnp.PyArray_DATA(saved)
        threads = calls[0].threads if n == 1 else threads_for(total, most)
        stop = watched(&interruptible, T, total)
        for i in range(n):
            calls[i].stop = stop
        with nogil:
            forward_stack(kernels[self.number], calls, self.directions, threads, apart, drops)
        raise_pending(stop)
        if keep:
            kept = Kept()
            kept.inputs, kept.outputs, kept.saved, kept.flags, kept.fresh = inputs, outputs, memory, flags, fresh
            kept.draw, kept.most, kept.bf16_parts = draw, most, parts
        return y, last, kept

    def quick_backward(self, Kept kept, dy, dstate, need, into, bint add):
        """Gradients as `Pullback` returns them; None for arguments that only the slower, checking way takes."""
        cdef cnp.ndarray x = kept.inputs[0]
        cdef cnp.ndarray y = kept.outputs[0]
        cdef ptrdiff_t T = cnp.PyArray_DIM(y, 0), N = cnp.PyArray_DIM(y, 1)
        cdef ptrdiff_t outer = N if self.batch_first else T, inner = T if self.batch_first else N
        cdef tuple dlast, found
        if kept.fresh is not None:
            return None
        if dy is not None:
            if not is_array(dy, self.typenum, 3, outer, inner, self.directions * self.H):
                return None
            if self.batch_first:
                dy = cnp.PyArray_SwapAxes(<cnp.ndarray> dy, 0, 1)
        dlast = self.states_in(dstate, N)
        if dlast is None and dstate is not None:
            return None
        if into is not None and not (need[2] and self.takes(into)):
            return None
        found = back(self, kept, dy, dlast, kept.flags, need, into, add, None, False)
        dx, first, grads, _ = found
        if dx is not None and self.batch_first:
            dx = cnp.PyArray_SwapAxes(<cnp.ndarray> dx, 0, 1)
        if first is not None and self.states == 1:
            first = first[0]
        return dx, first, grads

    cdef bint takes(self, into):
        """Whether all of `into` are arrays that the gradients of the parameters can be written to."""
        cdef ptrdiff_t i, D, wide
        cdef int known = 0, j
        cdef tuple names, arrays
        if type(into) is not dict:
            return False
        for i in range(len(self.arrays)):
            names, arrays = self.names[i], self.arrays[i]
            D = self.input_of(i)
            for j in range(4):
                array = (<dict> into).get(names[j])
                if array is None:
                    continue
                known += 1
                if j < 2:
                    wide = self.H * (self.matrices if j else self.gates)
                    if not is_array(array, self.typenum, 2, self.H if j else D, wide, 0):
                        return False
                elif not is_array(array, self.typenum, 1, self.H * (self.gates if j == 2 else self.matrices), 0, 0):
                    return False
                if arrays[j] is None or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> array):
                    return False
        return known == len(<dict> into)

    def backward(self, Kept kept, dy, dlast, options, need):
        """See `fastrnn.engine.contract.Stack`."""
        cuts, clip, per_sequence = options
        cdef cnp.ndarray y = kept.outputs[0]
        flags = with_cuts(kept.flags, cnp.PyArray_DIM(y, 0), cnp.PyArray_DIM(y, 1), self.reverse, cuts)
        if self.directions == 2 and cuts is not None:
            flags = flags, with_cuts(kept.flags, cnp.PyArray_DIM(y, 0), cnp.PyArray_DIM(y, 1), True, cuts)
        last = None if dlast is None else tuple([contiguous(one) for one in dlast])
        return LayerGradients(*back(self, kept, dy, last, flags, need, None, False, clip, per_sequence))


cdef int set_drop(Drop* drop, draw, int layer, cnp.ndarray source, cnp.ndarray to) except -1:
    drop.source, drop.to, drop.count = cnp.PyArray_DATA(source), cnp.PyArray_DATA(to), cnp.PyArray_SIZE(to)
    drop.key, drop.threshold, drop.scale = draw.key(layer), draw.threshold, draw.scale
    return 0


cdef double worth_a_thread() except -1:
    return thresholds.WORTH_A_THREAD


cdef int threads_for(double work, int most) except -1:
    """Number of threads for a call of `work` multiply-adds; see `fastrnn.engine.threads`."""
    if most == 1:
        return 1
    cdef double worth = work / worth_a_thread()
    return 1 if worth < 2 else <int> min(worth, most)


include "stack_backward.pxi"
