"""Why an installation has no C++ extension, as its build wrote it down.

``pip`` shows what a build prints only if the installation fails, and one without the extension does not: it is
optional. So `setup.py` leaves ``_build.json`` beside this file where the extension was not built, with the keys

- ``why``: the reason in a sentence
- ``failed``: whether it was to be built and could be expected to: a compiler was there and gave up
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

_RECORD = Path(__file__).with_name("_build.json")
_UNKNOWN = "it was not built when fastrnn was installed; with FASTRNN_REQUIRE_EXT=1 the installation says why"
_warned = False


def why_missing() -> str:
    """The reason, in a sentence for people."""
    return str(_record().get("why", _UNKNOWN))


def warn_if_failed() -> None:
    """Warn, once in a process, that another backend stands in for an extension whose build failed.

    No compiler at all, or ``FASTRNN_NO_EXT=1``, are ways to install the package like any other: they warn of nothing.
    """
    global _warned
    if _warned or not _record().get("failed"):
        return
    _warned = True
    message = (
        f"the C++ extension is missing and Numba runs instead: {why_missing()}. FASTRNN_BACKEND=numba, or "
        "fastrnn.set_backend('numba'), chooses that and silences this warning"
    )
    # Who called is many frames up, and differs.
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _record() -> dict[str, Any]:
    """What the build wrote down; nothing where it wrote nothing, or nothing whole."""
    try:
        found = json.loads(_RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
