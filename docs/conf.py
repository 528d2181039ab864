"""Sphinx configuration: ``python -m sphinx -W --keep-going -b html docs docs/_build/html`` builds the site."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from reference import resolve, write_reference  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import fastrnn  # noqa: E402

project = "fastrnn"
author = "The fastrnn authors"
project_copyright = author
version = release = fastrnn.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples"]
nitpicky = True
# Types in words, such as "array like ``y``": numpydoc makes no references of them, autodoc shows none.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = "fastrnn"
html_show_sphinx = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    # Every example is run; only that makes its picture.
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "capture_repr": (),
}

write_reference(HERE / "api")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve)
