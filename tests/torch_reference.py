"""The same problems run by PyTorch's own modules, where the `torch` fixture gives it."""

from __future__ import annotations

from typing import Any

import numpy as np

from naive import Call
from problems import Problem, Result, named

MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "gru_after": ("GRU", {}),
}
NAMES = {"Wx": "weight_ih_l0", "Wh": "weight_hh_l0", "bx": "bias_ih_l0", "bh": "bias_hh_l0"}


def torch_result(torch: Any, p: Problem, call: Call) -> Result:
    """Outputs and gradients of one direction of a bidirectional module."""
    hidden = p.dhs.shape[2]
    name, options = MODULES[p.cell]
    module = getattr(torch.nn, name)(p.x.shape[2], hidden, bidirectional=True, dtype=torch.float64, **options)
    suffix = "_reverse" if call.reverse else ""
    own = {name: getattr(module, NAMES[name] + suffix) for name in p.params}
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(torch.tensor(p.params[name].T))
    x = torch.tensor(p.x, requires_grad=True)
    state = [torch.tensor(s, requires_grad=True) for s in p.state]
    y, last = _run(torch, module, x, [torch.stack([s, s]) for s in state], call)
    columns = slice(hidden, None) if call.reverse else slice(hidden)
    hs, last = y[..., columns], [s[int(call.reverse)] for s in last]
    pairs = zip([hs, *last], [p.dhs, *p.dlast], strict=True)
    sum((value * torch.tensor(weight)).sum() for value, weight in pairs).backward()
    return named(
        _numpy(hs),
        map(_numpy, last),
        _numpy(x.grad),
        (_numpy(s.grad) for s in state),
        {name: _numpy(weight.grad).T for name, weight in own.items()},
    )


def _run(torch: Any, module: Any, x: Any, state: list[Any], call: Call) -> tuple[Any, Any]:
    """Output (T, N, 2H) and last states (2, N, H) of the module."""
    first = tuple(state) if len(state) > 1 else state[0]
    if call.lengths is None:
        y, last = module(x, first)
    else:
        rnn = torch.nn.utils.rnn
        packed = rnn.pack_padded_sequence(x, torch.tensor(call.lengths), enforce_sorted=False)
        y, last = module(packed, first)
        y, _ = rnn.pad_packed_sequence(y, total_length=len(x))
    return y, last if len(state) > 1 else [last]


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy()
