"""The record from which a compiled stage reads the addresses of its vectors: the meaning of each entry.

Entries are 64-bit integers. Every address is that of the first sequence and the first hidden unit at the step's time.
"""

from __future__ import annotations

X = 0  # projections of the input, (N, G, Hp)
UNITS = 1  # biases and per-unit parameters, (U, Hp)
KEEP = 2  # (N, J, Hp)
DA = 3  # (N, M, Hp)
DY = 4  # gradient of the outputs, rows of at least Hp elements
DY_STEP = 5  # bytes from one of its rows to the next
CONSTANTS = 6  # of the cell
LENGTH = 7  # H
PADDED = 8  # Hp
STATES = 9  # of each state three: before the step, after it, and its `carry`; (N, Hp) each
PREV, NEXT, CARRY = 0, 1, 2
