"""The Markdown files: links lead somewhere, the API page is complete, the README's two commands are there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import fastrnn
from fastrnn.layers.cell import CellBackward
from fastrnn.vjp import Backward, Gradients

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
API = (ROOT / "docs" / "api.md").read_text()
SITE = 'pip install ".[docs]" && sphinx-build -W docs docs/_build'


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


def in_the_reference() -> dict[str, set[str]]:
    """Module -> the names that reference.rst lists of it."""
    names: dict[str, set[str]] = {}
    module = ""
    for line in (ROOT / "docs" / "reference.rst").read_text().splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r"   [\w.]+", line):
            names.setdefault(module, set()).add(line.strip())
    return names


def exported(module: str) -> set[str]:
    """Its `__all__` as it is written down: some cannot be imported without an extra."""
    source = (Path(fastrnn.__file__).parent / module / "__init__.py").read_text()
    return set(re.findall(r'"(\w+)"', re.search(r"^__all__ = \[(.*?)\]", source, re.MULTILINE | re.DOTALL)[1]))


def test_every_public_name_is_in_the_reference():
    listed = in_the_reference()
    for module in [fastrnn, fastrnn.jit, *MODULES]:
        assert not set(module.__all__) - listed[module.__name__], module.__name__
    assert not exported("interop/torch") - listed["fastrnn.interop.torch"]
    assert not {name for name in listed["fastrnn"] if "." not in name} - set(fastrnn.__all__)


def test_every_picture_is_in_the_reference_and_in_the_api():
    pytest.importorskip("matplotlib")
    assert set(fastrnn.plot.__all__) == in_the_reference()["fastrnn.plot"]
    for name in fastrnn.plot.__all__:
        assert described(f"fastrnn.plot.{name}") == arguments(getattr(fastrnn.plot, name))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/index.md"])
def test_the_command_that_makes_the_site(page):
    assert f"\n{SITE}\n" in (ROOT / page).read_text()


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


MODEL_LAYERS = [fastrnn.Linear(1, 1), fastrnn.Embedding(1, 1), fastrnn.Dropout(), fastrnn.ReLU(), fastrnn.Sequential(),
                fastrnn.ModuleList(), fastrnn.LastStep(), fastrnn.Softmax(0), fastrnn.SelectOutput()]  # fmt: skip


@pytest.mark.parametrize("layer", MODEL_LAYERS, ids=lambda layer: type(layer).__name__)
def test_every_public_method_of_the_layers_of_a_model_is_in_the_api(layer):
    names = public_methods(type(layer)) | {name for name in vars(layer) if not name.startswith("_")}
    missing = [n for n in sorted(names) if not re.search(rf"(layer|net)\.{n}\b|\b{n}[,=]", API)]
    assert not missing


def test_every_public_method_of_a_stream_is_in_the_api():
    names = public_methods(type(fastrnn.GRU(1, 1).stream()))
    assert names >= {"step", "state"}
    assert not [name for name in names if f"stream.{name}" not in API]


def test_every_public_method_of_optimizers_and_schedulers_is_in_the_api():
    layer = fastrnn.GRU(1, 1)
    optimizer = fastrnn.optim.Adam(layer.parameters())
    scheduler = fastrnn.optim.lr_scheduler.StepLR(optimizer, 1)
    for name, what in (("optimizer", optimizer), ("scheduler", scheduler)):
        names = public_methods(type(what))
        assert {"step", "state_dict"} <= names
        assert not [method for method in names if f"`{name}.{method}" not in API]


def test_every_field_of_gradients_is_in_the_api():
    assert Gradients._fields == ("x", "hx", "params")
    assert not [name for name in Gradients._fields if f"`gradients.{name}`" not in API]


#: Modules whose names are public beside those of `fastrnn` itself.
MODULES = [
    fastrnn.functional,
    fastrnn.testing,
    fastrnn.losses,
    fastrnn.optim,
    fastrnn.optim.lr_scheduler,
    fastrnn.data,
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_name_of_a_module_is_in_the_api(module):
    assert {"gru_vjp", "check_gradients", "mse_loss", "SGD", "StepLR", "DataLoader"} & set(module.__all__)
    assert not [name for name in module.__all__ if f"{module.__name__}.{name}" not in API]


def test_modules_list_all_that_is_theirs():
    for module in MODULES:
        public = {name for name, value in vars(module).items() if not name.startswith("_") and inspect.isroutine(value)}
        defined = {name for name in public if getattr(module, name).__module__ == module.__name__}
        assert defined <= set(module.__all__)


SIGNED = {f"fastrnn.{name}": getattr(fastrnn, name) for name in fastrnn.__all__}
SIGNED |= {f"{module.__name__}.{name}": getattr(module, name) for module in MODULES for name in module.__all__}
SIGNED = {name: what for name, what in SIGNED.items() if not name.endswith(("Error", ".Ragged"))}
#: How the API calls a method, which of the places where it does, and the method.
METHODS = [
    ("layer.vjp", 0, fastrnn.GRU.vjp),
    ("cell.vjp", 0, fastrnn.GRUCell.vjp),
    ("gradients = backward", 0, Backward.__call__),
    ("gradients = backward", 1, CellBackward.__call__),
    ("optimizer.step", 0, fastrnn.optim.Optimizer.step),
    ("optimizer.load_state_dict", 0, fastrnn.optim.Optimizer.load_state_dict),
]


def described(name, place=0):
    """The arguments of what the API calls so."""
    written = re.findall(rf"{re.escape(name)}\(([^`]*?)\)(?=$|`|\n)", API, re.MULTILINE)
    assert len(written) > place, f"no signature of {name}"
    return arguments(eval(f"(lambda {written[place]}: None)"))


def arguments(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", SIGNED)
def test_signatures_in_the_api(name):
    """Arguments and defaults as they are, in their order."""
    assert described(name) == arguments(SIGNED[name])


def test_names_and_signatures_of_compiled_functions():
    pytest.importorskip("numba")
    table = API.partition("\n## Compiled code\n")[2].partition("\n## ")[0]
    written = dict(re.findall(r"`(\w+)(\([^`]*\))?`", table))
    for name in fastrnn.jit.__all__:
        if not isinstance(what := getattr(fastrnn.jit, name), type):
            assert arguments(eval(f"lambda {written[name][1:-1]}: None")) == arguments(what), name
        assert name in written


@pytest.mark.parametrize(("name", "place", "method"), METHODS)
def test_signatures_of_methods_in_the_api(name, place, method):
    first, *expected = arguments(method)
    assert first[0] == "self"
    assert described(name, place) == expected


@pytest.mark.parametrize("command", ["pip install . && fastrnn demo", 'pip install ".[test]" && pytest'])
def test_the_two_commands(command):
    assert f"```sh\n{command}\n```" in (ROOT / "README.md").read_text()
