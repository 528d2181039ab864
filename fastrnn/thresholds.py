"""The sizes at which the Python side changes its path: what is worth a thread, a chunk, a tile.

Those of the C++ engine are in ``csrc/thresholds.h``. A threshold that was timed has figure and date: the output of
``python -m bench.thresholds`` on an AMD EPYC (Zen 4, AVX-512, two cores, 1 MiB of second-level cache each). The others
follow from counts. They are read when they are needed, so that an assignment here changes the path.
"""

from __future__ import annotations

# Multiply-adds of a forward pass for each thread that it uses: a call of twice as many uses two. For every backend.
# 2026-11-24, two threads against one, C++, calls in a row: 0.5, 1, 2, 4, 8 million: 0.77, 0.69, 0.64, 0.57, 0.60 of the
# time; waking a worker that sleeps takes longer than calls in a row show.
WORTH_A_THREAD = 1_000_000

# Numba: bytes of a chunk's buffer (input projections forward, gradients of sums backward), so that it is still in the
# second-level cache when the products or the steps read it again. 2026-11-24, T=100, D=H=128, N=32, LSTM forward: 64,
# 128, 256, 512 KiB: 1.02, 1.02, 1.03, 1.02 of the time of 1024; the same of both passes within 0.02.
CHUNK_BYTES = 1 << 20

# Numba: rows (steps times sequences) of a chunk, at least, whatever their bytes: the depth of the products for the
# gradients of the weights. Not timed since these are its own microkernel's.
CHUNK_ROWS = 256

# Numba: rows of a chunk in BPTT where each sequence has gradients of its own, whose products are only as deep as the
# chunk has steps. 2026-11-24, LSTM, float32, T=100, N=32, D=H=128: 256, 1024, 2048, 4096, 8192: 46.6, 28.2, 24.7, 22.9,
# 22.8 ms (for all sequences together 18.5).
CHUNK_ROWS_OF_EACH = 8192

# Numba: rows (steps times sequences) from which the input weights are packed if the hidden units fill whole vectors; if
# they do not, the weights are always packed. Not timed since it was chosen.
WORTH_PACKING = 8

# Numba: bytes of a call's scratch memory up to which it is kept for later calls. Not timed since it was chosen.
KEPT_BYTES = 1 << 23

# Numba: vectors of columns of a register tile, at most, and rows of a tile with this many columns and with fewer: the
# sums, a row of the right operand and an element of the left one fit 32 registers. Counted. The remaining rows take
# tiles of 4, 2 and 1 rows.
TILE_COLUMNS = 4
TILE_ROWS = (6, 8)

# Numba: columns of a tile of one row, in a call of one sequence: fewer, longer calls of the cell's code, whose chains
# of elementary functions then overlap. 2026-11-24, T=1000, D=H=20: LSTM 0.93, GRU 0.88 of the time of 4.
TILE_COLUMNS_ALONE = 8

# Numba: independent sums of a tile, at least; if its rows times columns are fewer, the depth is split over several. A
# fused multiply-add has a latency of four cycles, and a processor starts one or two per cycle. Counted, not timed.
SUMS_UNDER_WAY = 8
