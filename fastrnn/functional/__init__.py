"""Recurrent layers as functions of arrays, for code that has its own loop over the steps and wants a quick one.

Each function runs one layer in one direction. A ``*_forward`` function returns new arrays and a cache; the
``*_backward`` function of the same name turns that cache and the gradient of a loss into the gradients of all inputs,
by backpropagation through time (BPTT; Werbos 1990, "Backpropagation through time: what it does and how to do it"). A
cache can be used any number of times.

Shapes: T steps, N sequences, D input features, H hidden units, G gates. ``x`` is (T, N, D), or (N, T, D) with
``batch_first=True``, and may have any strides. ``Wx`` is (D, G*H), ``Wh`` (H, G*H), ``b`` (G*H,) or (1, G*H).
All arrays of a call have the same dtype, float32 or float64. An initial state of None stands for zeros. The compiled
backends treat subnormal numbers (below 2**-126 in float32, 2**-1022 in float64) as zero.

Invalid arguments raise before anything is computed: ``TypeError`` for something that is not an array of the right
dtype, ``ValueError`` for a wrong shape or value; the message names the argument.

Arguments shared by all functions of sequences:

lengths : (N,) integers, optional
    Number of steps of each sequence, from 0 to T, in any order. Steps past the end of a sequence are inactive.
mask : (T, N) or (N, T) booleans, optional
    Which steps are active; the inactive ones may stand anywhere, also at the front. An inactive step outputs zeros,
    keeps the state and passes the state's gradient on unchanged; the values of `x` at that step are never used.
    `lengths` is the special case of padding at the end. If both are given, a step is active where both say so.
resets : (T, N) or (N, T) booleans, optional
    Where True, the step starts from `reset_state` instead of the state of the step before it (in the order in which
    the layer runs), and no gradient passes to that step. An initial state still enters the first step unless that step
    is reset. A step that is both inactive and reset keeps the reset state.
reset_state : sequence of (H,) or (N, H) arrays, optional
    For each state, one row for all sequences or one row per sequence; zeros by default, also for an entry None. The
    gradients have the same shapes and are returned under the name ``"reset_state"`` or, by functions that return a
    tuple of gradients, as a tuple at its end.
batch_first : bool
    Whether `x`, the outputs and their gradients are (N, T, ...).
reverse : bool
    Run from the last step of each sequence to the first; the output of a step stays at that step's index.
truncate : int or pair of int, optional
    Cut the gradient after every `truncate` active steps of a sequence, counted from its start whether or not it is
    reset (truncated BPTT; Williams & Peng 1990). With ``(k1, k2)``, the loss of every step counts once, in its block of
    k1 steps, and goes back from the block's end over k2 steps, at least k1 (Sutskever 2013, section 2.8.6); this takes
    ``ceil(k2 / k1)`` backward passes. A short last block reaches as far back as a whole one, and a sequence of at most
    k2 steps is not cut: ``(k, k)`` is the same as ``k``, and k2 of at least T the same as None. With k2 > k1, layers
    must run in one direction.
"""

from ._cell import Cache, cell_backward, cell_forward, cell_step_backward, cell_step_forward
from ._gru import gru_backward, gru_forward, gru_step_backward, gru_step_forward
from ._lstm import lstm_backward, lstm_forward, lstm_step_backward, lstm_step_forward
from ._rnn import rnn_backward, rnn_forward, rnn_step_backward, rnn_step_forward

__all__ = [
    "Cache",
    "cell_backward",
    "cell_forward",
    "cell_step_backward",
    "cell_step_forward",
    "gru_backward",
    "gru_forward",
    "gru_step_backward",
    "gru_step_forward",
    "lstm_backward",
    "lstm_forward",
    "lstm_step_backward",
    "lstm_step_forward",
    "rnn_backward",
    "rnn_forward",
    "rnn_step_backward",
    "rnn_step_forward",
]
