"""Pages of the API reference, written from what the modules say is public: one for each module, function and class.

What a module takes over from one before it is described there, once.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import shutil
from pathlib import Path
from types import ModuleType

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import fastrnn

# Takes over what another module is the place of: described after all others.
LAST = "fastrnn.cells"


def modules() -> list[str]:
    """Names of the public modules: `fastrnn`, and those in its `__all__`."""
    return [
        "fastrnn",
        *sorted(f"fastrnn.{name}" for name in fastrnn.__all__ if inspect.ismodule(getattr(fastrnn, name))),
    ]


def public(module: ModuleType) -> list[str]:
    """Names of the public functions and classes of `module`."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__]
    return [
        name for name in names if inspect.isroutine(getattr(module, name)) or inspect.isclass(getattr(module, name))
    ]


def write_reference(folder: Path) -> None:
    """Write the pages into `folder`; what is in it is removed first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for module, members in _described().items():
        (folder / f"{module}.rst").write_text(_module_page(module, members), encoding="utf-8")
        for name in members:
            (folder / f"{_file(name)}.rst").write_text(_member_page(name), encoding="utf-8")
    entries = "".join(f"   {module}\n" for module in modules())
    index = _title("API reference") + f".. toctree::\n   :maxdepth: 1\n\n{entries}"
    (folder / "index.rst").write_text(index, encoding="utf-8")


def _described() -> dict[str, list[str]]:
    """For each module the full names that are described on pages of its own."""
    seen: set[int] = set()
    described: dict[str, list[str]] = {}
    for module in sorted(modules(), key=lambda name: name == LAST):
        names = [f"{module}.{name}" for name in public(importlib.import_module(module))]
        described[module] = [name for name in names if id(_object(name)) not in seen]
        seen |= {id(_object(name)) for name in described[module]}
    return described


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n\n"


def _module_page(module: str, members: list[str]) -> str:
    page = _title(module) + f".. automodule:: {module}\n   :no-members:\n\n"
    for heading, wanted in (("Classes", True), ("Functions", False)):
        names = [name.removeprefix(f"{module}.") for name in members if inspect.isclass(_object(name)) is wanted]
        if names:
            lines = "".join(f"   {name}\n" for name in names)
            page += f".. rubric:: {heading}\n\n.. autosummary::\n\n{lines}\n"
    entries = "".join(f"   {name.rpartition('.')[2]} <{_file(name)}>\n" for name in members)
    return page + f".. toctree::\n   :hidden:\n\n{entries}"


def _file(name: str) -> str:
    """Of a page; where capitals do not count, ``Cell`` and ``cell`` would be one file."""
    return f"{name}-class" if inspect.isclass(_object(name)) else name


def _member_page(name: str) -> str:
    page = _title(name)
    if inspect.isclass(_object(name)):
        return page + f".. autoclass:: {name}\n   :members:\n   :inherited-members:\n   :special-members: __call__\n"
    return page + f".. autofunction:: {name}\n"


def _object(name: str) -> object:
    module, _, member = name.rpartition(".")
    return getattr(importlib.import_module(module), member)


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: Element) -> Element | None:
    """A link for a name that docstrings shorten as the code does, such as ``Layer.config``; else the name alone.

    None, and with it a warning, for what is not there at all. No inventory of another project is fetched.
    """
    if node.get("refdomain") != "py":
        return None
    domain, target = env.domains.python_domain, node["reftarget"]
    found = [one for one in domain.find_obj(env, None, None, target, None, 1) if not one[1].aliased]
    if len(found) == 1:
        name, entry = found[0]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contents, name)
    around = ".".join(filter(None, (node.get("py:module"), node.get("py:class"))))
    places = (around, node.get("py:module"), getattr(_lookup(around), "__module__", ""), "")
    known = any(_lookup(f"{place}.{target}".lstrip(".")) is not None for place in places)
    return contents if found or known else None


def _lookup(name: str) -> object | None:
    """What a dotted name leads to, in this package or another such as NumPy; None if that is nothing."""
    parts = name.split(".")
    if not parts[0] or not importlib.util.find_spec(parts[0]):
        return None
    found: object | None = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        module = ".".join(parts[:i])
        if not hasattr(found, part) and hasattr(found, "__path__") and importlib.util.find_spec(module):
            importlib.import_module(module)
        found = getattr(found, part, None)
    return found
