"""Oracles: recurrent cells one scalar at a time, and their gradients from a tape of scalars.

Slow on purpose, and independent on purpose: nothing here imports fastrnn, traces an expression or
knows a matrix product. Numbers are nested lists of float, of complex (for the complex step) or of
`Scalar` (for reverse mode); the cells below run on all three.

Shapes: x [T][N][D], a state [N][H], Wx [D][G*H], Wh [H][P*H], bx [G*H], bh [P*H], a per-unit
vector [H].
"""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Number = Any  # float, complex or Scalar
Vector = list[Number]
Params = dict[str, Any]
_births = itertools.count()


class Scalar:
    """A number that remembers what it was made of: pairs of (parent, derivative by that parent)."""

    __slots__ = ("birth", "grad", "parents", "value")

    def __init__(self, value: float, parents: tuple[tuple[Scalar, float], ...] = ()) -> None:
        self.value, self.parents = value, parents
        self.grad = 0.0
        self.birth = next(_births)

    def __add__(self, other: Number) -> Scalar:
        b = as_scalar(other)
        return Scalar(self.value + b.value, ((self, 1.0), (b, 1.0)))

    def __mul__(self, other: Number) -> Scalar:
        b = as_scalar(other)
        return Scalar(self.value * b.value, ((self, b.value), (b, self.value)))

    def __truediv__(self, other: Number) -> Scalar:
        b = as_scalar(other)
        y = self.value / b.value
        return Scalar(y, ((self, 1 / b.value), (b, -y / b.value)))

    def __rtruediv__(self, other: Number) -> Scalar:
        return as_scalar(other) / self

    def __neg__(self) -> Scalar:
        return Scalar(-self.value, ((self, -1.0),))

    def __sub__(self, other: Number) -> Scalar:
        return self + -as_scalar(other)

    def __rsub__(self, other: Number) -> Scalar:
        return as_scalar(other) - self

    __radd__, __rmul__ = __add__, __mul__

    def backward(self) -> None:
        """Add d self / d ancestor to the `grad` of every ancestor."""
        found, todo = {self}, [self]
        while todo:
            new = {parent for parent, _ in todo.pop().parents} - found
            found |= new
            todo.extend(new)
        self.grad = 1.0
        # A parent is always older than its children.
        for node in sorted(found, key=lambda s: s.birth, reverse=True):
            for parent, derivative in node.parents:
                parent.grad += node.grad * derivative


def as_scalar(value: Number) -> Scalar:
    return value if isinstance(value, Scalar) else Scalar(value)


def detach(vector: Vector) -> Vector:
    """The same numbers, cut from what they were made of."""
    return [Scalar(v.value) if isinstance(v, Scalar) else v for v in vector]


def _function(
    real: Callable[[float], float],
    complex_: Callable[[complex], complex],
    derivative: Callable[[float, float], float],
) -> Callable[[Number], Number]:
    """One function on the three kinds of number; `derivative` takes argument and value."""

    def apply(v: Number) -> Number:
        if isinstance(v, Scalar):
            y = real(v.value)
            return Scalar(y, ((v, derivative(v.value, y)),))
        return complex_(v) if isinstance(v, complex) else real(v)

    return apply


tanh = _function(math.tanh, cmath.tanh, lambda a, y: 1 - y * y)
exp = _function(math.exp, cmath.exp, lambda a, y: y)
relu = _function(
    lambda a: a if a > 0 else 0.0,
    lambda a: a if a.real > 0 else 0j,
    lambda a, y: 1.0 if a > 0 else 0.0,
)
sigmoid = _function(lambda a: 1 / (1 + math.exp(-a)), lambda a: 1 / (1 + cmath.exp(-a)), lambda a, y: y * (1 - y))
softplus = _function(
    lambda a: math.log1p(math.exp(a)),
    lambda a: cmath.log(1 + cmath.exp(a)),
    lambda a, y: 1 / (1 + math.exp(-a)),
)
hard_sigmoid = _function(
    lambda a: min(max(a / 6 + 0.5, 0.0), 1.0),
    lambda a: a / 6 + 0.5 if abs(a.real) < 3 else complex(a.real > 0),
    lambda a, y: 1 / 6 if -3 < a < 3 else 0.0,
)
log = _function(
    lambda a: math.log(a) if a > 0 else -math.inf if a == 0 else math.nan,
    cmath.log,
    lambda a, y: 1 / a if a != 0 else math.inf,
)
sqrt = _function(
    lambda a: math.sqrt(a) if a >= 0 else math.nan,
    cmath.sqrt,
    lambda a, y: 0.5 / y if y != 0 else math.inf,
)
sin = _function(math.sin, cmath.sin, lambda a, y: math.cos(a))
cos = _function(math.cos, cmath.cos, lambda a, y: -math.sin(a))
absolute = _function(
    abs,
    lambda a: -a if a.real < 0 else a,
    lambda a, y: 1.0 if a > 0 else -1.0 if a < 0 else 0.0,
)


def _real(v: Number) -> float:
    return v.value if isinstance(v, Scalar) else v.real


def less(a: Number, b: Number) -> bool:
    return _real(a) < _real(b)


def less_equal(a: Number, b: Number) -> bool:
    return _real(a) <= _real(b)


def where(condition: bool, a: Number, b: Number) -> Number:
    return a if condition else b


def maximum(a: Number, b: Number) -> Number:
    """The larger one; of two equal ones the mean, whose derivatives are halves."""
    return a if less(b, a) else b if less(a, b) else 0.5 * a + 0.5 * b


def minimum(a: Number, b: Number) -> Number:
    return -maximum(-a, -b)


def _affine(weights: Any, bias: Any, vector: Vector, block: int, size: int) -> Vector:
    """Columns [block*size, (block+1)*size) of vector @ weights + bias."""
    result = []
    for column in range(block * size, (block + 1) * size):
        total = bias[column] if bias is not None else 0.0
        for k, value in enumerate(vector):
            total = total + value * weights[k][column]
        result.append(total)
    return result


def from_x(p: Params, x: Vector, block: int, size: int) -> Vector:
    """Gate number `block` of x @ Wx + bx."""
    return _affine(p["Wx"], p.get("bx"), x, block, size)


def from_vector(p: Params, vector: Vector, block: int) -> Vector:
    """Recurrent matrix number `block` of vector @ Wh + bh."""
    return _affine(p["Wh"], p.get("bh"), vector, block, len(vector))


def gate(p: Params, f: Callable[[Number], Number], x: Vector, h: Vector, block: int) -> Vector:
    """f(x part + h part) of gate number `block`."""
    pairs = zip(from_x(p, x, block, len(h)), from_vector(p, h, block), strict=True)
    return [f(a + b) for a, b in pairs]


States = tuple[Vector, ...]
Step = Callable[..., States]  # step(params, x, *states) -> new states


def rnn(f: Callable[[Number], Number]) -> Step:
    return lambda p, x, h: (gate(p, f, x, h, 0),)


def lstm(p: Params, x: Vector, h: Vector, c: Vector) -> States:
    i, f = gate(p, sigmoid, x, h, 0), gate(p, sigmoid, x, h, 1)
    g, o = gate(p, tanh, x, h, 2), gate(p, sigmoid, x, h, 3)
    c = [f[u] * c[u] + i[u] * g[u] for u in range(len(h))]
    return [o[u] * tanh(c[u]) for u in range(len(h))], c


def gru_after(p: Params, x: Vector, h: Vector) -> States:
    r, z = gate(p, sigmoid, x, h, 0), gate(p, sigmoid, x, h, 1)
    a, b = from_x(p, x, 2, len(h)), from_vector(p, h, 2)
    n = [tanh(a[u] + r[u] * b[u]) for u in range(len(h))]
    return ([(1 - z[u]) * n[u] + z[u] * h[u] for u in range(len(h))],)


def gru_before(p: Params, x: Vector, h: Vector) -> States:
    r, z = gate(p, sigmoid, x, h, 0), gate(p, sigmoid, x, h, 1)
    a, b = from_x(p, x, 2, len(h)), from_vector(p, [r[u] * h[u] for u in range(len(h))], 2)
    n = [tanh(a[u] + b[u]) for u in range(len(h))]
    return ([(1 - z[u]) * n[u] + z[u] * h[u] for u in range(len(h))],)


def leaky(tau: float, dt: float) -> Step:
    def step(p: Params, x: Vector, h: Vector) -> States:
        target = gate(p, tanh, x, h, 0)
        return ([h[u] + (dt / tau) * (target[u] - h[u]) for u in range(len(h))],)

    return step


def mgu(p: Params, x: Vector, h: Vector) -> States:
    f = gate(p, sigmoid, x, h, 0)
    a, b = from_x(p, x, 1, len(h)), from_vector(p, [f[u] * h[u] for u in range(len(h))], 1)
    return ([(1 - f[u]) * h[u] + f[u] * tanh(a[u] + b[u]) for u in range(len(h))],)


def coupled_lstm(p: Params, x: Vector, h: Vector, c: Vector) -> States:
    i, g, o = gate(p, sigmoid, x, h, 0), gate(p, tanh, x, h, 1), gate(p, sigmoid, x, h, 2)
    c = [(1 - i[u]) * c[u] + i[u] * g[u] for u in range(len(h))]
    return [o[u] * tanh(c[u]) for u in range(len(h))], c


def peephole_lstm(p: Params, x: Vector, h: Vector, c: Vector) -> States:
    pre = [[a + b for a, b in zip(from_x(p, x, k, len(h)), from_vector(p, h, k), strict=True)] for k in range(4)]
    new_h, new_c = [], []
    for u in range(len(h)):
        i = sigmoid(pre[0][u] + p["pi"][u] * c[u])
        f = sigmoid(pre[1][u] + p["pf"][u] * c[u])
        new_c.append(f * c[u] + i * tanh(pre[2][u]))
        o = sigmoid(pre[3][u] + p["po"][u] * new_c[u])
        new_h.append(o * tanh(new_c[u]))
    return new_h, new_c


def indrnn(p: Params, x: Vector, h: Vector) -> States:
    a = from_x(p, x, 0, len(h))
    return ([relu(a[u] + p["u"][u] * h[u]) for u in range(len(h))],)


def relaxing(p: Params, x: Vector, h: Vector) -> States:
    size = len(h)
    r = gate(p, sigmoid, x, h, 0)
    a, b = from_x(p, x, 1, size), from_vector(p, [r[u] * h[u] for u in range(size)], 1)
    n = [tanh(a[u] + b[u]) for u in range(size)]
    d = from_vector(p, [n[u] - h[u] for u in range(size)], 2)
    k = [exp(-softplus(d[u])) for u in range(size)]
    return ([(n[u] + k[u] * h[u]) / (1 + k[u]) for u in range(size)],)


@dataclass(frozen=True)
class Naive:
    """A cell's step, and how many of each thing it has."""

    step: Step
    gates: int = 1
    matrices: int = 1
    states: int = 1
    units: tuple[str, ...] = ()

    def param_shapes(self, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        h = hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "Wx": (input_size, self.gates * h),
            "bx": (self.gates * h,),
        }
        if self.matrices:
            shapes |= {"Wh": (h, self.matrices * h), "bh": (self.matrices * h,)}
        return shapes | dict.fromkeys(self.units, (h,))


CELLS = {
    "rnn_tanh": Naive(rnn(tanh)),
    "rnn_relu": Naive(rnn(relu)),
    "rnn_sigmoid": Naive(rnn(sigmoid)),
    "rnn_identity": Naive(rnn(lambda a: a)),
    "lstm": Naive(lstm, gates=4, matrices=4, states=2),
    "gru_after": Naive(gru_after, gates=3, matrices=3),
    "gru_before": Naive(gru_before, gates=3, matrices=3),
    "leaky": Naive(leaky(tau=5.0, dt=0.5)),
    "mgu": Naive(mgu, gates=2, matrices=2),
    "coupled_lstm": Naive(coupled_lstm, gates=3, matrices=3, states=2),
    "peephole_lstm": Naive(peephole_lstm, gates=4, matrices=4, states=2, units=("pi", "pf", "po")),
    "indrnn": Naive(indrnn, matrices=0, units=("u",)),
    "relaxing": Naive(relaxing, gates=2, matrices=3),
}


@dataclass(frozen=True)
class Call:
    """How a layer is run over a batch.

    `truncate` = k cuts gradients before each sequence's own steps k, 2k, ...; with (k1, k2), the losses of each block
    of k1 steps go back to k2 steps before the block's end. `mask` and `resets` are [T][N].
    """

    lengths: tuple[int, ...] | None = None
    reverse: bool = False
    truncate: int | tuple[int, int] | None = None
    mask: tuple[tuple[bool, ...], ...] | None = None
    resets: tuple[tuple[bool, ...], ...] | None = None

    def active(self, t: int, n: int) -> bool:
        inside = self.lengths is None or t < self.lengths[n]
        return inside and (self.mask is None or self.mask[t][n])


PLAIN = Call()


def run(
    step: Step, x: Any, state: Sequence[Any], params: Params, call: Call, reset_state: Any = None
) -> tuple[Any, list[Any]]:
    """Outputs [T][N][H], zero where a sequence is inactive, and last states [states][N][H]."""
    size = len(state[0][0])
    hs = [[[0.0] * size for _ in x[0]] for _ in x]
    last: list[list[Vector]] = [[] for _ in state]
    for n in range(len(x[0])):
        now: States = tuple(s[n] for s in state)
        count = 0
        for t in reversed(range(len(x))) if call.reverse else range(len(x)):
            if call.resets is not None and call.resets[t][n]:
                now = tuple([0.0] * size for _ in state) if reset_state is None else tuple(s[n] for s in reset_state)
            elif isinstance(call.truncate, int) and call.active(t, n) and count > 0 and count % call.truncate == 0:
                now = tuple(detach(v) for v in now)
            if call.active(t, n):
                now = step(params, x[t][n], *now)
                hs[t][n] = now[0]
                count += 1
        for which, values in enumerate(now):
            last[which].append(values)
    return hs, last


def nested(value: Any, make: Callable[[float], Number] = float) -> Any:
    """An array, or nested lists, as nested lists of `make(number)`."""
    if hasattr(value, "__len__"):
        return [nested(v, make) for v in value]
    return make(value)


def flat(value: Any) -> list[Number]:
    return [v for part in value for v in flat(part)] if isinstance(value, list) else [value]


def loss(hs: Any, last: Any, dhs: Any, dlast: Any) -> Number:
    """The number whose gradient by the outputs is dhs, and by the last states dlast."""
    total: Number = 0.0
    for weight, value in zip(flat([dhs, dlast]), flat([hs, last]), strict=True):
        total = total + weight * value
    return total


@dataclass(frozen=True)
class Run:
    """All that a forward and a backward pass give, as nested lists."""

    hs: Any
    last: Any
    dx: Any
    dstate: Any
    dparams: dict[str, Any] = field(default_factory=dict)
    dreset: Any = None


def differentiate(
    step: Step,
    x: Any,
    state: Sequence[Any],
    params: Params,
    dhs: Any,
    dlast: Any,
    call: Call,
    reset_state: Any = None,
) -> Run:
    """The run and its gradients: a tape over every scalar of the call."""
    x, state = nested(x, Scalar), nested(state, Scalar)
    reset_state = None if reset_state is None else nested(reset_state, Scalar)
    params = {name: nested(value, Scalar) for name, value in params.items()}
    dhs, dlast = nested(dhs), nested(dlast)
    if isinstance(call.truncate, tuple):
        _differentiate_blocks(step, x, state, params, dhs, dlast, call, reset_state)
        hs, last = run(step, x, state, params, replace(call, truncate=None), reset_state)
    else:
        hs, last = run(step, x, state, params, call, reset_state)
        as_scalar(loss(hs, last, dhs, dlast)).backward()

    def value(v: Any) -> Any:
        return [value(e) for e in v] if isinstance(v, list) else as_scalar(v).value

    def grad(v: Any) -> Any:
        return [grad(e) for e in v] if isinstance(v, list) else v.grad

    dparams = {k: grad(v) for k, v in params.items()}
    dreset = None if reset_state is None else grad(reset_state)
    return Run(value(hs), value(last), grad(x), grad(state), dparams, dreset)


def _differentiate_blocks(
    step: Step, x: Any, state: Any, params: Params, dhs: Any, dlast: Any, call: Call, reset_state: Any
) -> None:
    """Adds the gradient of truncated BPTT(k2; k1): for every sequence and every block a run of its own.

    The run goes over the sequence's steps up to the block's end, and from a constant state k2 steps before it.
    """
    k1, k2 = call.truncate  # type: ignore[misc]
    times = list(reversed(range(len(x))) if call.reverse else range(len(x)))
    for n in range(len(x[0])):
        active = [t for t in times if call.active(t, n)]
        for begin in range(0, max(1, len(active)), k1):
            end = min(begin + k1, len(active))
            first = 0 if end <= k2 else begin + k1 - k2
            now: States = tuple(s[n] for s in state)
            total: Number = 0.0
            count = 0
            for t in times:
                if count == end and end < len(active):
                    break
                if call.resets is not None and call.resets[t][n]:
                    zeros = tuple([0.0] * len(s[n]) for s in state)
                    now = zeros if reset_state is None else tuple(s[n] for s in reset_state)
                elif call.active(t, n) and count == first and count > 0:
                    now = tuple(detach(v) for v in now)
                if call.active(t, n):
                    now = step(params, x[t][n], *now)
                    if count >= begin:
                        total = total + sum(a * b for a, b in zip(dhs[t][n], now[0], strict=True))
                    count += 1
            if end == len(active):
                for d, values in zip(dlast, now, strict=True):
                    total = total + sum(a * b for a, b in zip(d[n], values, strict=True))
            as_scalar(total).backward()
