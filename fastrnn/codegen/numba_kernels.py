"""The time loops of a plan as the text of Python functions that Numba compiles.

A loop is specialized to one cell, number type and vector width: straight-line elementwise code between
calls of the microkernel, no array allocated, no Python object touched. Buffers are one-dimensional and every
row of H numbers is padded to `Hp`, a multiple of the vector width, so that no loop has a remainder.

Buffers, as the shapes that they are views of:
    x       (chunk, N, G, Hp)    input projections, in time order from `low` on
    state_k (rows, N, Hp)        states before and after each step, in time order
    keep    (rows, N, J, Hp)     what the forward step keeps
    units   (U, Hp)              biases and per-unit parameters
    dy      (T, N, >= Hp)        gradient of the outputs, any strides but contiguous rows
    carry_k (N, Hp)              gradient of the states after the chunk's last step; then before its first
    da      (chunk, N, M, Hp)    what the backward step computes, in time order from `low` on
    panel_i                      packed matrices of one product, see :func:`products`
`keep` and the states but the first are indexed by ``t & mask``: mask -1 keeps all, a small one reuses rows.
"""

from __future__ import annotations

from typing import NamedTuple

from .. import thresholds
from ..engine.plan import Plan, Ref, Stage
from .python import Code, stage_code

# Type of a three-dimensional array of a dtype, any strides.
STRIDED = "Array({}, 3, 'A', readonly=True)"


class MatrixProduct(NamedTuple):
    """A product that one packed panel serves: ``accs (+)= sources @ matrices``.

    sources : neighbouring slots of one buffer, multiplied as one long vector.
    matrices : ``[source][acc]`` blocks of ``Wh``, transposed in a backward stage.
    accs : numbers of the sums in the stage.
    more : whether an earlier product has already written the sums.
    """

    sources: tuple[Ref, ...]
    matrices: tuple[tuple[int, ...], ...]
    accs: tuple[int, ...]
    more: bool


def products(stage: Stage) -> list[MatrixProduct]:
    """The products of `stage`, each with as long a vector or as many sums as it can have."""
    result: list[MatrixProduct] = []
    first = [terms[0] for terms in stage.products]
    simple = all(len(terms) == 1 for terms in stage.products)
    if simple:
        for source in dict.fromkeys(t.source for t in first):
            accs = [i for i, t in enumerate(first) if t.source == source]
            for at in range(0, len(accs), thresholds.TILE_COLUMNS):
                some = tuple(accs[at : at + thresholds.TILE_COLUMNS])
                matrices = (tuple(first[i].matrix for i in some),)
                result.append(MatrixProduct((source,), matrices, some, False))
        return result
    for acc, terms in enumerate(stage.products):
        begin = len(result)
        for source, matrix in sorted(terms):
            last = result[-1] if len(result) > begin else None
            if last and source == Ref(source.kind, last.sources[-1].index + 1):
                result[-1] = last._replace(sources=(*last.sources, source), matrices=(*last.matrices, (matrix,)))
            else:
                result.append(MatrixProduct((source,), ((matrix,),), (acc,), len(result) > begin))
    return result


def unit_vectors(stage: Stage) -> tuple[int, ...]:
    """How many neighbouring vectors of units a tile may take, most first."""
    return tuple(n for n in (4, 2, 1) if n * _widest(stage) <= thresholds.TILE_COLUMNS)


def scratch_vectors(stages: tuple[Stage, ...]) -> int:
    """Vectors that the sums of a tile may take in `scratch`."""
    most_rows = max(rows[0] for rows in thresholds.TILE_ROWS.values())
    return max(1, *(len(stage.products) * thresholds.TILE_COLUMNS * most_rows for stage in stages))


def forward_loop(plan: Plan, dtype: str, width: int) -> list[str]:
    """``loop``, which runs steps ``begin .. end-1`` forward, and what it needs."""
    states = [f"state_{k}" for k in range(plan.n_states)]
    arrays = ["x", *states, "keep", "units", *panel_names(plan.forward), "scratch"]
    numbers = ["low", "begin", "end", "T", "N", "H", "Hp", "state_mask", "keep_mask", "reverse"]
    body = [
        "for s in range(begin, end):",
        *indented(_time_indices()),
    ]
    for i, stage in enumerate(plan.forward):
        idle = [f"store({s}, next_{k} + u, load({s}, prev_{k} + u))" for k, s in enumerate(states)]
        row = _row(plan, stage_code(stage), idle if i == 0 else [], [])
        body += indented(_stage(plan, stage, i, row, "forward"))
    return _loop(plan.forward, dtype, width, arrays, numbers, body)


def backward_loop(plan: Plan, dtype: str, width: int) -> list[str]:
    """``loop``, which runs steps ``end-1 .. begin`` backward, and what it needs."""
    states = [f"state_{k}" for k in range(plan.n_states)]
    carries = [f"carry_{k}" for k in range(plan.n_states)]
    arrays = ["dy", *states, "keep", "units", *carries, "da", *panel_names(plan.backward), "scratch"]
    numbers = ["low", "begin", "end", "T", "N", "H", "Hp", "truncate", "has_dy", "reverse"]
    body = [
        "state_mask = keep_mask = -1",
        "for s in range(end - 1, begin - 1, -1):",
        *indented(_time_indices()),
        "    after = t - 1 if reverse else t + 1",
    ]
    for i, stage in enumerate(plan.backward):
        first = _gradients(plan) if i == 0 else []
        row = _row(plan, stage_code(stage), _idle_backward(plan) if i == 0 else [], first)
        body += indented(_stage(plan, stage, i, row, "backward"))
    return _loop(plan.backward, dtype, width, arrays, numbers, body)


def _widest(stage: Stage) -> int:
    return max((len(p.accs) for p in products(stage)), default=thresholds.TILE_COLUMNS)


def _tile_rows(stage: Stage, vectors: int) -> tuple[int, ...]:
    return thresholds.TILE_ROWS[_widest(stage) * vectors] if stage.products else (1,)


def panel_names(stages: tuple[Stage, ...]) -> list[str]:
    """The arguments that hold packed matrices."""
    return [f"panel_{i}" for i in range(sum(len(products(stage)) for stage in stages))]


def _loop(
    stages: tuple[Stage, ...],
    dtype: str,
    width: int,
    arrays: list[str],
    numbers: list[str],
    body: list[str],
) -> list[str]:
    tiles = sorted(
        {
            (rows, len(p.accs) * vectors)
            for stage in stages
            for p in products(stage)
            for vectors in unit_vectors(stage)
            for rows in _tile_rows(stage, vectors)
        }
    )
    types = {a: STRIDED.format(dtype) if a == "dy" else f"{dtype}[::1]" for a in arrays}
    return [
        "from fastrnn.backends.numba.simd import constants, head, loader, row_loader, store",
        "from fastrnn.backends.numba.tile import tile",
        "from fastrnn.backends.numba.vecmath import exp, positive, relu, sigmoid, softplus, tanh",
        "",
        f"load, load_row, constant = loader(WIDTH), row_loader(WIDTH), constants({dtype!r}, WIDTH)",
        *(f"tile_{r}x{c} = tile({r}, {c}, {width}, {_split(r * c)})" for r, c in tiles),
        "",
        "",
        *function("loop", {**types, "lengths": "int64[::1]"}, numbers, body),
    ]


def _split(sums: int) -> int:
    """Parts that the depth of a tile of so many sums is split into."""
    return max(1, thresholds.SUMS_UNDER_WAY // sums)


def function(name: str, arrays: dict[str, str], numbers: list[str], body: list[str]) -> list[str]:
    """A compiled function of `arrays`, given with their types, and of integers."""
    signature = ", ".join([*arrays.values(), *("int64" for _ in numbers)])
    return [
        f'@njit("void({signature})", nogil=True, cache=True, error_model="numpy")',
        f"def {name}({', '.join([*arrays, *numbers])}):",
        *indented(body),
    ]


def indented(lines: list[str], by: int = 1) -> list[str]:
    """`lines`, `by` levels further in."""
    return ["    " * by + line for line in lines]


def _time_indices() -> list[str]:
    return [
        "t = T - 1 - s if reverse else s",
        "prev = t + 1 if reverse else t",
        "next = t if reverse else t + 1",
    ]


def _stage(plan: Plan, stage: Stage, number: int, row: list[str], direction: str) -> list[str]:
    """Loops over blocks of units and of sequences: products into `scratch`, then the elementwise code."""
    panel = sum(len(products(s)) for s in getattr(plan, direction)[:number])
    later = "after" if direction == "backward" and number == 0 else "t"
    branches = []
    for vectors in unit_vectors(stage):
        rows = _tile_rows(stage, vectors)
        inner = ["n = 0", "while n < N:", *indented(_choice("N - n >= {}", rows, "rows = {}"))]
        for i, product in enumerate(products(stage)):
            inner += indented(_product(plan, stage, product, f"panel_{panel + i}", vectors, later))
        inner += [
            "    for r in range(rows):",
            f"        for j in range({vectors}):",
            *indented(["u = block + j * WIDTH", *_acc_loads(stage, vectors), *row], 3),
            "    n += rows",
            f"block += {vectors} * WIDTH",
        ]
        branches.append(inner)
    choice = _branches("(Hp - block) // WIDTH >= {}", unit_vectors(stage), branches)
    return ["block = 0", "while block < Hp:", *indented(choice)]


def _branches(test: str, values: tuple[int, ...], bodies: list[list[str]]) -> list[str]:
    """The body of the first value that passes `test`; the last value is taken untested."""
    if len(values) == 1:
        return bodies[0]
    lines = []
    for i, (value, body) in enumerate(zip(values, bodies, strict=True)):
        word = "else:" if i == len(values) - 1 else f"{'elif' if i else 'if'} {test.format(value)}:"
        lines += [word, *indented(body)]
    return lines


def _choice(test: str, values: tuple[int, ...], statement: str) -> list[str]:
    return _branches(test, values, [[statement.format(v)] for v in values])


def _product(plan: Plan, stage: Stage, product: MatrixProduct, panel: str, vectors: int, later: str) -> list[str]:
    more_blocks = len(product.sources) - 1
    depth = f"{more_blocks} * Hp + H" if more_blocks else "H"
    buffer, at, step = _source_row(plan, product.sources[0], later)
    cols = len(product.accs) * vectors
    call = (
        f"tile_{{}}x{cols}({buffer}, {at}, {step}, {panel}, b_at, depth, "
        f"scratch, {_region(stage, product, vectors)}, {product.more})"
    )
    # The chunk's last step has no step after it here: `carry` already holds what comes from there.
    reach = f"{depth} if s < end - 1 else 0" if later == "after" else depth
    return [
        f"depth = {reach}",
        f"b_at = block * ({depth}) * {len(product.accs)}",
        *_choice("rows == {}", _tile_rows(stage, vectors), call),
    ]


def _region(stage: Stage, product: MatrixProduct, vectors: int) -> str:
    """Where in `scratch` the sums of `product` stand: each group of sums has a region of its own."""
    groups = list(dict.fromkeys(p.accs for p in products(stage)))
    before = sum(len(accs) for accs in groups[: groups.index(product.accs)])
    return f"{before * vectors * _tile_rows(stage, vectors)[0]} * WIDTH"


def _acc_loads(stage: Stage, vectors: int) -> list[str]:
    lines = []
    for product in products(stage):
        if product.more:
            continue
        cols = len(product.accs) * vectors
        for i, acc in enumerate(product.accs):
            at = f"{_region(stage, product, vectors)} + (r * {cols} + {i * vectors} + j) * WIDTH"
            lines.append(f"acc{acc} = load(scratch, {at})")
    return lines


def _source_row(plan: Plan, source: Ref, time: str) -> tuple[str, str, str]:
    """Buffer, index of the first row, and distance between the rows of a product's left side."""
    if source.kind == "prev":
        k = source.index
        prev = "prev" if k == 0 else "(prev & state_mask)"
        return f"state_{k}", f"({prev} * N + n) * Hp", "Hp"
    if source.kind == "keep":
        size = f"{plan.n_keep} * Hp"
        return "keep", f"((t & keep_mask) * N + n) * {size} + {source.index} * Hp", size
    size = f"{plan.n_da} * Hp"
    # Beyond the chunk the depth is 0 and nothing is read, whatever the index.
    return "da", f"(({time} - low) * N + n) * {size} + {source.index} * Hp", size


def _row(plan: Plan, code: Code, idle: list[str], first: list[str]) -> list[str]:
    """The elementwise code of one sequence and one vector of units."""
    lines = [
        "i = n + r",
        "own = s - (T - lengths[i]) if reverse else s",
        *(f"prev_{k} = ({_masked('prev', k)} * N + i) * Hp" for k in range(plan.n_states)),
        *(f"next_{k} = ({_masked('next', k)} * N + i) * Hp" for k in range(plan.n_states)),
        *_row_offsets(plan, code, bool(first)),
    ]
    active = [*first]
    for name, ref in code.loads:
        if ref.kind not in ("acc", "grad"):
            active.append(f"{name} = load({_place(ref)})")
    active += code.lines
    for ref, value in code.stores:
        vector = _vector(value)
        # A NaN in the padding of a row would spoil the sums of the products that run over it.
        text = f"head({vector}, H - u)" if ref.kind == "da" else vector
        active.append(f"store({_place(ref)}, {text})")
    lines += ["if own >= 0 and own < lengths[i]:", *indented(active or ["pass"])]
    return lines + (["else:", *indented(idle)] if idle else [])


def _masked(time: str, k: int) -> str:
    return time if k == 0 else f"({time} & state_mask)"


def _row_offsets(plan: Plan, code: Code, backward: bool) -> list[str]:
    kinds = {ref.kind for _, ref in code.loads} | {ref.kind for ref, _ in code.stores}
    lines = []
    if "x" in kinds:
        lines.append(f"x_at = ((t - low) * N + i) * {plan.n_gates} * Hp")
    if "keep" in kinds:
        lines.append(f"keep_at = ((t & keep_mask) * N + i) * {plan.n_keep} * Hp")
    if "da" in kinds or backward:
        lines.append(f"da_at = ((t - low) * N + i) * {plan.n_da} * Hp")
    return lines


def _place(ref: Ref) -> str:
    kind, index = ref
    if kind in ("prev", "next"):
        return f"state_{index}, {kind}_{index} + u"
    if kind == "unit":
        return f"units, {index} * Hp + u"
    if kind == "carry":
        return f"carry_{index}, i * Hp + u"
    return f"{kind}, {kind}_at + {index} * Hp + u"


def _vector(value: str) -> str:
    """A variable as it is; a number in every place of a vector."""
    return value if value.isidentifier() else f"constant({value})"


def _gradients(plan: Plan) -> list[str]:
    """Gradient of every state after the step: from the steps after it, unless cut, and from the output."""
    lines = ["cut = truncate > 0 and own + 1 < lengths[i] and (own + 1) % truncate == 0"]
    for k, acc in enumerate(plan.grad_acc):
        carried = f"load(carry_{k}, i * Hp + u)" + (f" + acc{acc}" if acc is not None else "")
        lines += [f"grad{k} = {carried}", "if cut:", f"    grad{k} = constant(0.0)"]
    return [*lines, "if has_dy:", "    grad0 = grad0 + load_row(dy, t, i, u)"]


def _idle_backward(plan: Plan) -> list[str]:
    """A step past a sequence's end passes the states' gradient through."""
    lines = []
    for k, acc in enumerate(plan.grad_acc):
        if acc is not None:
            at = f"carry_{k}, i * Hp + u"
            lines.append(f"store({at}, load({at}) + acc{acc})")
    lines += [f"store(da, da_at + {m} * Hp + u, constant(0.0))" for m in range(plan.n_da)]
    return lines
