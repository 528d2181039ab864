"""Pages of the API reference, written from what the modules say is public: one for each module, function and class.

What a module takes over from one before it is described there, once.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import shutil
from pathlib import Path

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


def public(module: str) -> list[str]:
    """Full names of what is public in `module`, modules aside."""
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None)
    if names is None:
        own = [name for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
        names = [name for name in own if not name.startswith("_")]
    return [f"{module}.{name}" for name in names if not inspect.ismodule(getattr(loaded, name))]


def write_reference(folder: Path) -> None:
    """Write the pages into `folder`; what is in it is removed first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pages = {"index": _index()}
    seen: set[int] = set()
    for module in sorted(modules(), key=lambda name: name == LAST):
        names = public(module)
        own = [name for name in names if id(_object(name)) not in seen]
        seen |= {id(_object(name)) for name in own}
        pages[module] = _module_page(module, own, [name for name in names if name not in own])
        pages |= {_file(name): _member_page(name) for name in own if _has_page(name)}
    for name, text in pages.items():
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")


def _index() -> str:
    entries = "".join(f"   {module}\n" for module in modules())
    rows = [(f":py:mod:`{module}`", _first_line(importlib.import_module(module))) for module in modules()]
    return _title("API reference") + _table(rows) + f".. toctree::\n   :hidden:\n\n{entries}"


def _module_page(module: str, own: list[str], taken_over: list[str]) -> str:
    page = _title(module) + f".. automodule:: {module}\n   :no-members:\n\n"
    for heading, is_one in (("Classes", inspect.isclass), ("Functions", inspect.isroutine)):
        names = [name for name in own if is_one(_object(name))]
        rows = [(f":py:obj:`~{name}`", _first_line(_object(name))) for name in names]
        page += f".. rubric:: {heading}\n\n{_table(rows)}" if rows else ""
    data = [name for name in own if not _has_page(name)]
    page += ".. rubric:: Constants\n\n" if data else ""
    page += "".join(f".. py:data:: {name}\n\n   ``{_object(name)!r}``\n\n" for name in data)
    if taken_over:
        links = ", ".join(f":py:obj:`~{_home(name)}`" for name in taken_over)
        page += f".. rubric:: Also here\n\n{links}\n\n"
    entries = "".join(f"   {name.rpartition('.')[2]} <{_file(name)}>\n" for name in own if _has_page(name))
    return page + f".. toctree::\n   :hidden:\n\n{entries}"


def _member_page(name: str) -> str:
    page = _title(name)
    if inspect.isclass(_object(name)):
        return page + f".. autoclass:: {name}\n   :members:\n   :inherited-members:\n   :special-members: __call__\n"
    return page + f".. autofunction:: {name}\n"


def _home(name: str) -> str:
    """Where the object that `name` leads to is described."""
    everywhere = [other for module in modules() if module != LAST for other in public(module)]
    return next(other for other in everywhere if _object(other) is _object(name))


def _has_page(name: str) -> bool:
    return inspect.isclass(_object(name)) or inspect.isroutine(_object(name))


def _file(name: str) -> str:
    """Of a page; where capitals do not count, ``Cell`` and ``cell`` would be one file."""
    return f"{name}-class" if inspect.isclass(_object(name)) else name


def _object(name: str) -> object:
    module, _, member = name.rpartition(".")
    return getattr(importlib.import_module(module), member)


def _first_line(described: object) -> str:
    return " ".join((inspect.getdoc(described) or "").partition("\n\n")[0].split())


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n\n"


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"   * - {name}\n     - {text}\n" for name, text in rows)
    return f".. list-table::\n   :widths: 30 70\n\n{cells}\n"


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
