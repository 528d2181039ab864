# BPTT of a stack: what each call reads, and where its gradients go.

cdef tuple back(Stack stack, Kept kept, dy, tuple dlast, flags, need, into, bint add, clip, bint per_sequence):
    """dx (T, N, D), the gradients of the first states, those of the parameters, and those of the reset states.

    `flags` is a table or, for two directions with cuts of their own, a pair. With `per_sequence`, `into` is None.
    """
    cdef vector[BackwardCall] calls
    cdef vector[Join] joins
    cdef vector[Finished] finished
    cdef vector[char] apart
    cdef BackwardCall* call
    cdef Interruptible interruptible
    cdef const Stop* stop
    cdef int n = len(stack.arrays), i, d, layer
    cdef bint need_x = need[0], need_params = need[2], done, split = False
    cdef double work, total = 0
    cdef cnp.ndarray y = kept.outputs[0]
    cdef ptrdiff_t T = cnp.PyArray_DIM(y, 0), N = cnp.PyArray_DIM(y, 1)
    cdef list copies = [], dxs = []
    cdef dict grads = {}
    cdef tuple first = stack.states_out(N), fresh = None if kept.fresh is None else stack.states_out(N)
    cdef cnp.ndarray scratch = kept_array(stack.typenum, stack.item, scratch_size(stack, into) * (N if per_sequence else 1) if need_params else 0)
    cdef char* at = <char*> cnp.PyArray_DATA(scratch)
    calls.resize(n)
    joins.resize(stack.layers)
    apart.resize(stack.layers)
    for i in range(n):
        call, layer, d = &calls[i], i // stack.directions, i % stack.directions
        set_input(<Call*> call, kept.inputs[layer], 0, 1)
        copies.append(stack.own_params(<Call*> call, i))
        call.reverse = d if stack.directions == 2 else stack.reverse
        call.bf16_parts = kept.bf16_parts
        call.flags = NULL
        own = flags[d] if type(flags) is tuple else flags
        if own is not None:
            call.flags = <const uint8_t*> cnp.PyArray_DATA(<cnp.ndarray> own)
        set_options(call, clip, per_sequence)
        stack.set_states(<Call*> call, i, None, kept.fresh)
        set_gradients_of_states(stack, call, i, dlast, first, fresh)
        stack.set_output(&call.y, &call.y_time, &call.y_row, kept.outputs[layer], d)
        call.saved = cnp.PyArray_DATA(<cnp.ndarray> kept.saved[i])
        place_dx(stack, call, &joins[layer], layer, d, need_x or layer > 0, kept.draw, dxs)
        work = stack.work_of(<Call*> call)
        if d == 0:
            split = stack.runs_apart(N, work, kept.most)
            apart[layer] = split
        call.threads = 1 if split else threads_for(work, kept.most)
        total += 2 * work
        call.dWx = call.dWh = call.dslots = NULL
        if need_params:
            at = place_gradients(stack, call, i, into, add, at, grads, finished)
    if dy is not None:
        dy = contiguous_rows(dy)
    for i in range(n):
        call, layer, d = &calls[i], i // stack.directions, i % stack.directions
        given = dy if layer + 1 == stack.layers else dxs[stack.directions * (layer + 1)]
        call.dy = NULL
        if given is not None:
            stack.set_output(&call.dy, &call.dy_time, &call.dy_row, given, d)
    stop = watched(&interruptible, T, total)
    for i in range(n):
        calls[i].stop = stop
    with nogil:
        done = backward_stack(kernels[stack.number], calls, stack.directions, apart, joins)
        if done:
            finish(finished, stack.item, add)
    raise_pending(stop)
    return dxs[0] if need_x else None, first if need[1] else None, grads, fresh


cdef int set_gradients_of_states(Stack stack, BackwardCall* call, int i, tuple dlast, tuple first,
                                 tuple fresh) except -1:
    cdef int k
    cdef ptrdiff_t shift = i * call.N * stack.H * stack.item
    for k in range(stack.states):
        call.dlast[k] = call.dreset[k] = NULL
        if dlast is not None:
            call.dlast[k] = <char*> cnp.PyArray_DATA(<cnp.ndarray> dlast[k]) + shift
        if fresh is not None:
            call.dreset[k] = <char*> cnp.PyArray_DATA(<cnp.ndarray> fresh[k]) + shift
        call.dstate[k] = <char*> cnp.PyArray_DATA(<cnp.ndarray> first[k]) + shift
    return 0


cdef int place_dx(Stack stack, BackwardCall* call, Join* join, int layer, int d, bint needed, draw, list dxs) except -1:
    """Memory for the gradient of the input of a layer; that of the second direction is added to that of the first."""
    cdef cnp.ndarray dx
    call.dx = NULL
    if not needed:
        dxs.append(None)
        return 0
    dx = stack.rows_out(call.T, call.N, call.D, 3)
    dxs.append(dx)
    call.dx = cnp.PyArray_DATA(dx)
    if d == 1:
        join.other = call.dx
        return 0
    join.dx, join.count = call.dx, call.T * call.N * call.D
    if draw is not None and layer:
        set_drop(&join.drop, draw, layer, dx, dx)
    return 0


cdef ptrdiff_t scratch_size(Stack stack, into) except -1:
    """Elements for the sums over `da` of every call, and for weight gradients that are copied at the end."""
    cdef ptrdiff_t total = 0, i
    for i in range(len(stack.arrays)):
        total += stack.slots * stack.H
        if into is not None:
            total += stack.H * (stack.input_of(i) * stack.gates + stack.H * stack.matrices)
    return total


cdef char* place_gradients(Stack stack, BackwardCall* call, int i, into, bint add, char* at, dict grads,
                           vector[Finished]& finished) except NULL:
    """Sets where the gradients of the parameters of call `i` go; returns the scratch memory that is left.

    Those of the weights are written directly to their arrays if these are contiguous and nothing is added.
    """
    cdef tuple names = stack.names[i], arrays = stack.arrays[i]
    cdef ptrdiff_t rows, columns
    cdef cnp.ndarray array
    cdef Finished one
    cdef int j
    cdef ptrdiff_t count = call.N if call.per_sequence else -1, n
    call.dslots = at
    at += (call.N if call.per_sequence else 1) * stack.slots * stack.H * stack.item
    for j in range(4):
        if arrays[j] is None:
            continue
        given = None if into is None else (<dict> into).get(names[j])
        rows = 1 if j > 1 else stack.H if j else call.D
        columns = stack.H * (stack.matrices if j % 2 else stack.gates)
        if given is not None:
            array = given
        elif j < 2 or call.per_sequence:
            array = gradient(stack.typenum, count if j < 2 else -1, call.N if j > 1 else rows, columns)
        else:
            array = cnp.PyArray_EMPTY(1, <cnp.npy_intp*> &columns, stack.typenum, 0)
        grads[names[j]] = array
        if call.per_sequence:
            if j == 0:
                call.dWx = cnp.PyArray_DATA(array)
            elif j == 1:
                call.dWh = cnp.PyArray_DATA(array)
            else:
                for n in range(call.N):
                    place_biases(stack, j, <char*> cnp.PyArray_DATA(array) + n * columns * stack.item,
                                 <char*> call.dslots + n * stack.slots * stack.H * stack.item, finished)
            continue
        one.rows, one.columns, one.to = rows, columns, cnp.PyArray_DATA(array)
        one.row = cnp.PyArray_STRIDE(array, 0) // stack.item
        one.col = cnp.PyArray_STRIDE(array, 1 if j < 2 else 0) // stack.item
        if j == 2:
            one.source = call.dslots
            finished.push_back(one)
        elif j == 3:
            one.columns = stack.H
            for matrix, slot in stack.terms:
                one.source = <char*> call.dslots + <ptrdiff_t> slot * stack.H * stack.item
                one.to = <char*> cnp.PyArray_DATA(array) + <ptrdiff_t> matrix * stack.H * one.col * stack.item
                finished.push_back(one)
        else:
            one.source = one.to
            if given is not None and (add or not cnp.PyArray_IS_C_CONTIGUOUS(array)):
                one.source = at
                finished.push_back(one)
                at += rows * columns * stack.item
            if j:
                call.dWh = <void*> one.source
            else:
                call.dWx = <void*> one.source
    return at


cdef int place_biases(Stack stack, int j, char* to, char* slots, vector[Finished]& finished) except -1:
    """The gradient of one sequence's biases, contiguous: of the input where `j` is 2, else of the recurrent products."""
    cdef Finished one
    one.rows, one.row, one.col = 1, 0, 1
    one.columns = stack.H * stack.gates
    one.source, one.to = slots, to
    if j == 2:
        finished.push_back(one)
        return 0
    one.columns = stack.H
    for matrix, slot in stack.terms:
        one.source = slots + <ptrdiff_t> slot * stack.H * stack.item
        one.to = to + <ptrdiff_t> matrix * stack.H * stack.item
        finished.push_back(one)
    return 0
