"""The precision of matrix products in float32."""

from __future__ import annotations

from ..errors import choice
from .settings import Setting, Use

# The number of bf16 terms that a float32 factor may be split into: three of 8 bits hold all of its 24.
PARTS = {"highest": 3, "high": 2, "medium": 1}
PRECISION: Setting[str] = Setting("matmul_precision", lambda: "highest")


def set_matmul_precision(precision: str) -> None:
    """Set the precision of matrix products in float32: the default of the process, in all its threads.

    Processors with instructions for bf16 (8 bits of precision, the exponent range of float32) can compute less precise
    products faster. Only matrix products are affected, forward and backward; their terms are still added in float32.
    Elementwise functions, float64 and the backends ``numba`` and ``numpy`` do not change. A backward pass has the
    precision of its forward pass. Where nothing is gained, in calls of few steps or on other processors, products
    remain as precise as with ``"highest"``.

    Parameters
    ----------
    precision : {"highest", "high", "medium"}
        ``"highest"``, the default: products in float32, or with AMX split products that are equally precise: each
        factor is the sum of three bf16 terms, which hold all of its bits, and six of their nine products are added. A
        call with infinite, NaN or very large elements, which the split cannot represent, is computed in float32.

        ``"high"``: each factor is the sum of two bf16 terms, and three of their four products are added: 16 of 24
        bits, an error of about 2**-16 of each product. Used with AMX.

        ``"medium"``: each factor is rounded to bf16: 8 of 24 bits, an error of about 2**-8 of each product. Used with
        AMX or AVX512-BF16.

        With both, elements below 2**-126 count as zero and those above 3.39e38 as infinite; with ``"high"`` an
        infinite element may turn the sums that it enters into NaN.

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
    The names are those of PyTorch's ``set_float32_matmul_precision``. The split into bf16 terms is from Henry, Tang &
    Heinecke (2019), "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations".
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
    """The precision of matrix products in float32 that the next call uses.

    Returns
    -------
    str
        Inside ``with use_matmul_precision(precision)`` its argument; otherwise the argument of the last
        :func:`set_matmul_precision`, and ``"highest"`` if there was none.
    """
    return PRECISION.get()
