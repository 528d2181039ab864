"""The time loops, forward and backward: the same for every cell.

They are compiled once for each dtype, by :mod:`fastrnn.codegen.integers`, not by Numba: every value is a 64-bit
integer, an address, a stride or size in bytes, or a count. A cell's table says what the cell is (:mod:`..tables`); its
elementwise code and the microkernel are machine code, called by address (:mod:`fastrnn.codegen.llvm`). Nothing is
allocated here, and no Python object is touched. Rows of H elements are padded to Hp, a whole number of vectors, so that
no loop has a remainder.

The arrays of a call; the address of an array that is not there is 0:
    x        (T, N, D)             in
    Wx, Wh   (D, G*H), (H, P*H)    in
    bx, bh   (G*H,), (P*H,)        in; empty if there is none
    own      (parameters, H)       in, flat: the cell's per-unit parameters
    first    (S, N, H)             in: the states before the first step
    last     (S, N, H)             out
    y        (T, N, H)             out; empty if not needed
    states   (S, rows, N, Hp)      out, flat: states before and after each step, in time order; T+1 rows each, but if
                                   nothing is kept only two for each state but the first
    keep     (T or 1, N, J, Hp)    out, flat: what the forward step keeps
    flags    (T, N)                in; empty if every step is plain
    reset    (S, N, H)             in; empty for zeros
    entering (S, rows, N, Hp)      in, flat: the state that enters each step, in time order, from row `entering_row` on
    dy       (T, N, H)             in, any strides; empty for zeros
    dlast    (S, N, H)             in
    dx, dstate, dWx, dWh           out, like what they are gradients of
    dslots   (M, H)                out: sums of `da`; like dWx and dWh once for each sequence if `per_sequence`
    dreset   (S, N, H)             inout: added to; empty if not needed
    clip     (1,)                  in: bound of the gradient of the states at each step; empty for none
`memory` is scratch space that holds nothing between calls: the packed matrices, the unit rows (U, Hp), the projections
of a chunk (chunk, N, G, Hp) or its gradients (chunk + 2, N, M, Hp) with one step before and one after it, and more; the
sizes are in :func:`fastrnn.backends.numba.kernel.forward_memory`.
"""

from . import backward, chunk, clip, flagged, forward, packing, rows, stage, tiles

MODULES = (rows, tiles, packing, chunk, flagged, clip, stage, forward, backward)
