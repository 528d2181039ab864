"""What the online learners run: a list of calls of machine code, and the update of a whole influence.

Compiled with the rows and tiles of :mod:`fastrnn.backends.numba.loops`, so everything here is an integer, and no
constant may have a name of theirs. A program is a list of integers: a header, then for each operation its function and
12 arguments, then by how much each argument goes on from one sequence to the next. All that they read and write stays
where it is for the life of a learner.

    header   IN ROWS BYTES STEP: where the caller's rows go, how many, their bytes, and from one to the next there;
             OUT BYTES STEP: the same of what the caller gets; LOOP: the forward loop and its arguments;
             SECTIONS: for each the number of its operations and how often they run; 0 times stands for the loop
"""

# mypy: ignore-errors

from ....codegen.integers import add, call, clear, copy, get
from ..loops.rows import SIZE, WIDTH, copy_rows
from ..loops.tiles import multiply

P_IN, P_ROWS, P_IN_BYTES, P_IN_STEP, P_OUT, P_OUT_BYTES, P_OUT_STEP, P_LOOP = range(8)
P_LOOP_ARGUMENTS = 23
P_SECTIONS = P_LOOP + 1 + P_LOOP_ARGUMENTS
P_OPERATION = 25
# The table of an influence; a pair of states has the address of its transposed Jacobian, or of its diagonal, or 0.
M_TILES, M_SCALE, M_COPY, M_INFLUENCE, M_ROW, M_VECTORS, M_LOWER, M_STATES, M_UNITS, M_PADDED, M_SCRATCH = range(11)
M_BELOW, M_BELOW_ROW, M_BELOW_STEP, M_INPUTS, M_OF_INPUT, M_DIRECT, M_COLUMNS, M_SEQUENCE_STEP = range(11, 19)
M_DIAGONAL_STEP, M_PAIRS = range(19, 21)


def fill(to, size):
    """Zeros."""
    clear(to, size)
    return 0


def add_diagonal(to, step, source, count):
    """Numbers added to the diagonal of a matrix."""
    add_strided(to, step + SIZE, source, count)
    return 0


def gather(to, source, step, count):
    """`count` numbers that stand `step` bytes apart."""
    for i in range(count):
        copy(to + i * SIZE, source + i * step, SIZE)
    return 0


def transpose(to, to_step, source, source_step, rows, columns):
    """``to[j] = source[:, j]`` for a matrix of `rows` and `columns`."""
    for i in range(rows):
        for j in range(columns):
            copy(to + j * to_step + i * SIZE, source + i * source_step + j * SIZE, SIZE)
    return 0


def run_loop(program):
    """The forward loop."""
    a = program + 8 * (P_LOOP + 1)
    call(
        get(program + 8 * P_LOOP), get(a), get(a + 8), get(a + 16), get(a + 24), get(a + 32), get(a + 40), get(a + 48),
        get(a + 56), get(a + 64), get(a + 72), get(a + 80), get(a + 88), get(a + 96), get(a + 104), get(a + 112),
        get(a + 120), get(a + 128), get(a + 136), get(a + 144), get(a + 152), get(a + 160), get(a + 168), get(a + 176),
    )  # fmt: skip
    return 0


def run(program, source, out):
    """The caller's rows in, every operation as often as its section says, the caller's rows out."""
    rows = get(program + 8 * P_ROWS)
    copy_rows(
        get(program + 8 * P_IN), get(program + 8 * P_IN_STEP), source, get(program + 8 * P_IN_BYTES), rows,
        get(program + 8 * P_IN_BYTES), 0,
    )  # fmt: skip
    section = program + 8 * (P_SECTIONS + 1)
    for _ in range(get(program + 8 * P_SECTIONS)):
        count, times = get(section), get(section + 8)
        section += 16
        if times == 0:
            run_loop(program)
        for n in range(times):
            a = section
            for _ in range(count):
                b = a + 104
                call(
                    get(a), get(a + 8) + n * get(b), get(a + 16) + n * get(b + 8), get(a + 24) + n * get(b + 16),
                    get(a + 32) + n * get(b + 24), get(a + 40) + n * get(b + 32), get(a + 48) + n * get(b + 40),
                    get(a + 56) + n * get(b + 48), get(a + 64) + n * get(b + 56), get(a + 72) + n * get(b + 64),
                    get(a + 80) + n * get(b + 72), get(a + 88) + n * get(b + 80), get(a + 96) + n * get(b + 88),
                )  # fmt: skip
                a += 8 * P_OPERATION
        section += 8 * P_OPERATION * count
    copy_rows(
        out, get(program + 8 * P_OUT_BYTES), get(program + 8 * P_OUT), get(program + 8 * P_OUT_STEP), rows,
        get(program + 8 * P_OUT_BYTES), 0,
    )  # fmt: skip


def spread(table, n):
    """The influence of one sequence a step on, in place: ``M' = A M + B below``, a block of columns after the other.

    A block of M is copied, so that all its rows can be written: each column is read and written once.
    """
    tiles, scale = get(table + 8 * M_TILES), get(table + 8 * M_SCALE)
    row, S, H = get(table + 8 * M_ROW), get(table + 8 * M_STATES), get(table + 8 * M_UNITS)
    M = get(table + 8 * M_INFLUENCE) + n * get(table + 8 * M_SEQUENCE_STEP)
    Hp, scratch, lower = get(table + 8 * M_PADDED), get(table + 8 * M_SCRATCH), get(table + 8 * M_LOWER)
    D, below_row = get(table + 8 * M_INPUTS), get(table + 8 * M_BELOW_ROW)
    below = get(table + 8 * M_BELOW) + n * get(table + 8 * M_BELOW_STEP)
    of_input = get(table + 8 * M_OF_INPUT)
    vectors, size = get(table + 8 * M_VECTORS), SIZE * WIDTH
    v = 0
    while v < vectors:
        cols = min(3, (lower if v < lower else vectors) - v)
        block = M + v * size
        call(get(table + 8 * M_COPY), scratch, cols * size, block, row * SIZE, S * H, cols, 0, 0, 0, 0, 0, 0)
        for k in range(S):
            to, more = block + k * H * row * SIZE, 0
            for j in range(S):
                pair = table + 8 * (M_PAIRS + 2 * (k * S + j))
                old = scratch + j * H * cols * size
                if get(pair):
                    a = get(pair)
                    multiply(tiles, a, 1, S * Hp, old, cols * WIDTH, H, to, row, H, cols, more)
                    more = 1
                elif get(pair + 8):
                    c = get(pair + 8) + n * get(table + 8 * M_DIAGONAL_STEP)
                    call(scale, to, row * SIZE, old, cols * size, c, SIZE, H, cols, more, 0, 0, 0)
                    more = 1
            if v < lower:
                b = of_input + k * Hp * SIZE
                multiply(tiles, b, 1, S * Hp, below + v * size, below_row, D, to, row, H, cols, more)
            elif more == 0:
                for u in range(H):
                    clear(to + u * row * SIZE, cols * size)
        if v >= lower:
            add_direct(table, block, (v - lower) * WIDTH, cols * WIDTH)
        v += cols
    return 0


def add_direct(table, block, first, count):
    """What each parameter does to its own unit in this step: one element of each of `count` columns of a block."""
    row, S, H = get(table + 8 * M_ROW), get(table + 8 * M_STATES), get(table + 8 * M_UNITS)
    Hp, columns = get(table + 8 * M_PADDED), get(table + 8 * M_COLUMNS)
    done = 0
    while done < count:
        # Up to the end of a row of parameters.
        u = (first + done) % Hp
        some = min(count - done, Hp - u)
        for k in range(S):
            source = get(table + 8 * M_DIRECT) + (k * columns + first + done) * SIZE
            to = block + ((k * H + u) * row + done) * SIZE
            add_strided(to, (row + 1) * SIZE, source, max(0, min(some, H - u)))
        done += some
    return 0


def add_strided(to, step, source, count):
    """Numbers added to such as stand `step` bytes apart."""
    for i in range(count):
        add(to + i * step, source + i * SIZE)
    return 0


def gradient(table, d, d_step, to, sequences):
    """``sum over n of d[n] @ M[n]`` for the rows of the output."""
    tiles = get(table + 8 * M_TILES)
    row, H, M = get(table + 8 * M_ROW), get(table + 8 * M_UNITS), get(table + 8 * M_INFLUENCE)
    vectors, size = get(table + 8 * M_VECTORS), SIZE * WIDTH
    for n in range(sequences):
        v = 0
        while v < vectors:
            left = vectors - v
            cols = 8 if left >= 8 else min(4, left)
            b = M + n * get(table + 8 * M_SEQUENCE_STEP) + v * size
            multiply(tiles, d + n * d_step, 0, 1, b, row, H, to + v * size, 0, 1, cols, 1 if n else 0)
            v += cols
    return 0
