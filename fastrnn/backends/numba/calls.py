"""From arrays to the compiled loops: what Numba itself compiles, once for each dtype. See :mod:`.loops`."""

from fastrnn.backends.numba.pointers import caller, of
from fastrnn.backends.numba.subnormals import BITS, read_register, write_register

_forward, _backward, _online = caller(23), caller(35), caller(3)


def forward(
    loop,
    table,
    tiles,
    x,
    Wx,
    Wh,
    bx,
    bh,
    own,
    first,
    last,
    y,
    states,
    keep,
    memory,
    flags,
    reset,
    chunk,
    keeps,
    reverse,
):
    """Run the forward pass by the machine code at `loop`, with subnormal numbers treated as zero."""
    mode = read_register()
    write_register(mode | BITS)
    T, N, D = x.shape
    _forward(
        loop, of(table), of(tiles), of(x), of(Wx), of(Wh), of(bx), of(bh), of(own), of(first), of(last), of(y),
        of(states), of(keep), of(memory), of(flags), of(reset), T, N, D, Wh.shape[0], chunk, keeps, reverse,
    )  # fmt: skip
    write_register(mode)


def backward(
    loop, table, tiles, x, Wx, Wh, bx, bh, own, dy, dlast, states, entering, keep, memory, flags, dx, dstate, dWx, dWh,
    dslots, dreset, clip, entering_row, entering_rows, by_norm, per_sequence, chunk, reverse
):  # fmt: skip
    """Run the backward pass by the machine code at `loop`, with subnormal numbers treated as zero."""
    mode = read_register()
    write_register(mode | BITS)
    T, N, D = x.shape
    _backward(
        loop, of(table), of(tiles), of(x), of(Wx), of(Wh), of(bx), of(bh), of(own), of(dy), of(dlast), of(states),
        of(entering), of(keep), of(memory), of(flags), of(dx), of(dstate), of(dWx), of(dWh), of(dslots), of(dreset),
        of(clip), dy.strides[0], dy.strides[1], dy.strides[2], entering_row, entering_rows, by_norm, per_sequence,
        T, N, D, Wh.shape[0], chunk, reverse,
    )  # fmt: skip
    write_register(mode)


def online(function, program, source, out):
    """A program of :mod:`.online`."""
    mode = read_register()
    write_register(mode | BITS)
    _online(function, of(program), of(source), of(out))
    write_register(mode)
