"""Compiled recurrent networks on the CPU, forward and BPTT, on NumPy arrays."""

from . import cells, diagnostics, functional, losses, online, ops, optim, typing
from .autoregressive import AR
from .cells import Cell, CellError, cell
from .curvature import hvp
from .dispatch import available_backends, get_backend, set_backend, use_backend
from .engine.precision import get_matmul_precision, set_matmul_precision, use_matmul_precision
from .engine.threads import get_num_threads, set_num_threads, use_num_threads
from .explain import explain
from .gradcheck import GradientCheck, gradcheck
from .layers import Embedding, Layer, Linear
from .model import Model
from .prepared import Prepared, Pullback, prepare
from .recurrent import GRU, LSTM, RNN, Recurrent
from .truncated import tbptt

__version__ = "0.1.0"

__all__ = [
    "AR",
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "CellError",
    "Embedding",
    "GradientCheck",
    "Layer",
    "Linear",
    "Model",
    "Prepared",
    "Pullback",
    "Recurrent",
    "available_backends",
    "cell",
    "cells",
    "diagnostics",
    "explain",
    "functional",
    "get_backend",
    "get_matmul_precision",
    "get_num_threads",
    "gradcheck",
    "hvp",
    "losses",
    "online",
    "ops",
    "optim",
    "prepare",
    "set_backend",
    "set_matmul_precision",
    "set_num_threads",
    "tbptt",
    "typing",
    "use_backend",
    "use_matmul_precision",
    "use_num_threads",
]
