"""The site: ``sphinx-build -W docs docs/_build`` (extra ``docs``), then open ``docs/_build/index.html``.

The pages are the Markdown files of this folder, which read as well without it; the reference is made of docstrings.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.ext import autosummary

import fastrnn
from fastrnn import jit

project = "fastrnn"
copyright = "the fastrnn developers"
version = release = fastrnn.__version__
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_heading_anchors = 4

autosummary_generate = True
autodoc_typehints = "none"  # types stand in the docstrings
autodoc_mock_imports = ["torch"]  # hundreds of MB for six names
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "fastrnn"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["fastrnn.css"]
html_theme_options = {
    "navbar_align": "left",
    "navbar_center": [],  # all pages are in the sidebar
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
html_sidebars = {"**": ["pages.html"]}

# What Numba compiled is no function to autodoc.
for name in jit.__all__:
    setattr(jit, name, getattr(getattr(jit, name), "py_func", getattr(jit, name)))


def summary(doc: list[str], document: Any, whole: Any = autosummary.extract_summary) -> str:
    """Without the labels that numpydoc gives to a page's references, of no use in a table of many pages."""
    return re.sub(r" \[R\w+-\d+\]_", "", whole(doc, document))


autosummary.extract_summary = summary


def adapt(app: Any, name: str, source: list[str]) -> None:
    """What is otherwise on GitHub: the index's tables are the table of contents, files beside docs/ are not here."""
    text = re.sub(r"\[([^\]]*)\]\(\.\./[^)\s]+\)", r"\1", source[0])
    if name == "index":
        for heading, table in re.findall(r"^## (.+)\n\n((?:\|.*\n)+)", text, re.MULTILINE):
            pages = re.findall(r"\]\(([\w-]+)\.md\)", table)
            if "api" in pages:
                pages.insert(1, "reference")
            text += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```\n"])
    source[0] = text.replace("\n\n```\n", "\n```\n")  # the empty line is for doctest


def signature(app: Any, what: str, name: str, cls: Any, options: Any, given: str, returns: str) -> Any:
    """Of a class, what Python says: Sphinx would take that of `Module.__new__`, which is that of no layer."""
    if what != "class" or not given:
        return None
    said = inspect.signature(cls)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in said.parameters.values()]
    return str(said.replace(parameters=bare, return_annotation=inspect.Signature.empty)), None


def setup(app: Any) -> None:
    app.connect("source-read", adapt)
    app.connect("autodoc-process-signature", signature)
