"""How precise the products of float32 numbers have to be."""

from __future__ import annotations

from ..errors import choice
from .settings import Setting, Use

# For each name the bf16 numbers that a float32 number may be split into: three of 8 bits are all of its 24.
PARTS = {"highest": 3, "high": 2, "medium": 1}
PRECISION: Setting[str] = Setting("matmul_precision", lambda: "highest")


def set_matmul_precision(precision: str) -> None:
    """Say how precise the products of float32 numbers have to be: the default of the process, in all its threads.

    Processors that multiply bf16 numbers (8 bits of precision, the exponents of float32) can be quicker at a product
    of float32 numbers that is less precise. Only products change, of states and inputs with weights and of gradients
    with either: they are still added up as float32, and elementwise functions, float64 and the backends ``numba`` and
    ``numpy`` stay as they are. A backward pass is as precise as its forward pass was. Where nothing is gained, in
    calls of few steps or on other processors, products stay as precise as with ``"highest"``.

    Parameters
    ----------
    precision : {"highest", "high", "medium"}
        ``"highest"``, the default: products of float32 numbers, or with AMX such as are as precise: each number is a
        sum of three bf16 numbers, which are all of its bits, and six of their nine products are added. A call whose
        numbers are infinite, not numbers or so large that this way does not hold them, is done with float32 numbers.

        ``"high"``: each number is a sum of two bf16 numbers, and three of their four products are added: 16 of 24
        bits, an error of about 2**-16 of each product. Taken with AMX.

        ``"medium"``: each number is rounded to bf16: 8 of 24 bits, an error of about 2**-8 of each product. Taken
        with AMX or AVX512-BF16.

        In both, numbers below 2**-126 count as zero and those above 3.39e38 as infinite; with ``"high"`` an infinite
        number may make NaN of its sums.

    Raises
    ------
    ValueError
        If `precision` is none of these.

    See Also
    --------
    use_matmul_precision : for some calls only.
    get_matmul_precision

    Notes
    -----
    The names are those of PyTorch's ``set_float32_matmul_precision``. The split into sums of bf16 numbers is from
    Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
    Computations" (ARITH 2019).
    """
    PRECISION.set(choice("precision", precision, PARTS))


def use_matmul_precision(precision: str) -> Use[str]:
    """Context manager: another precision for the calls inside ``with``, in this thread or task of asyncio alone.

    Parameters
    ----------
    precision : {"highest", "high", "medium"}
        See :func:`set_matmul_precision`.

    Returns
    -------
    context manager
        For ``with``; it can be entered more than once.

    Raises
    ------
    ValueError
        If `precision` is none of these.

    Examples
    --------
    >>> with use_matmul_precision("medium"):
    ...     y, state = layer(x)
    """
    return Use(PRECISION, choice("precision", precision, PARTS))


def get_matmul_precision() -> str:
    """The precision of products of float32 numbers in the next call.

    Returns
    -------
    str
        Inside ``with use_matmul_precision(precision)`` that; else what :func:`set_matmul_precision` was last called
        with, and ``"highest"`` before.
    """
    return PRECISION.get()
