"""The Markdown files: links lead somewhere, the API page is complete, the README's two commands are there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import fastrnn

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
API = (ROOT / "docs" / "api.md").read_text()


def anchors(page: Path) -> set[str]:
    """The targets that a page's headings make, in the way of GitHub."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pages_are_there():
    names = {page.name for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "index.md", "api.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links(page):
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        found = target.exists() and (not anchor or anchor in anchors(target))
        if not found:
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_reached_from_the_index_and_the_readme(page):
    index, readme = (ROOT / "docs" / "index.md").read_text(), (ROOT / "README.md").read_text()
    assert page.name == "index.md" or (f"({page.name})" in index and f"(docs/{page.name})" in readme)


def public_methods(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls) if not name.startswith("_")}


def test_every_public_name_is_in_the_api():
    missing = [name for name in [*fastrnn.__all__, "__version__"] if f"fastrnn.{name}" not in API]
    assert not missing


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_every_public_method_of_a_layer_is_in_the_api(name):
    # Tables say "`layer.train(mode=True)`, `layer.eval()`"; what the constructor sets is named there by its argument.
    layer = getattr(fastrnn, name)(3, 4)
    names = public_methods(type(layer)) | {name for name in vars(layer) if not name.startswith("_")}
    assert names >= {"state_dict", "training", "hidden_size"}
    missing = [n for n in sorted(names) if not re.search(rf"layer\.{n}\b|\b{n}[,=]", API)]
    assert not missing


def test_every_public_method_of_a_stream_is_in_the_api():
    names = public_methods(type(fastrnn.GRU(1, 1).stream()))
    assert names >= {"step", "state"}
    assert not [name for name in names if f"stream.{name}" not in API]


SIGNED = [name for name in fastrnn.__all__ if not name.endswith("Error")]


@pytest.mark.parametrize("name", SIGNED)
def test_signatures_in_the_api(name):
    """Arguments and defaults as they are, in their order."""
    written = re.search(rf"fastrnn\.{name}\(([^`]*?)\)(?=$|`|\n)", API, re.MULTILINE)
    assert written, f"no signature of {name}"
    described = inspect.signature(eval(f"(lambda {written[1]}: None)"))
    actual = inspect.signature(getattr(fastrnn, name))
    expected = [(p.name, p.kind, p.default) for p in actual.parameters.values()]
    assert [(p.name, p.kind, p.default) for p in described.parameters.values()] == expected


@pytest.mark.parametrize("command", ["pip install . && fastrnn demo", 'pip install ".[test]" && pytest'])
def test_the_two_commands(command):
    assert f"```sh\n{command}\n```" in (ROOT / "README.md").read_text()
