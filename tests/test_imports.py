"""Who imports whom: `import fastrnn` stays light, and the packages depend on each other downwards only."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fastrnn

PACKAGE = Path(fastrnn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
COMPILED = sorted(path for suffix in EXTENSION_SUFFIXES[:1] for path in PACKAGE.glob(f"*{suffix}"))

#: Part of the package -> other parts that it may import. "fastrnn" is the public names.
ALLOWED = {
    "fastrnn": {
        "backends",
        "checkpoint",
        "config",
        "custom",
        "data",
        "errors",
        "functional",
        "interop",
        "gates",
        "layers",
        "losses",
        "optim",
        "packing",
        "plot",
        "testing",
        "threads",
    },
    "__main__": {"cli"},
    "atomic": set(),
    "elementary": set(),
    "bodies": {"elementary"},
    "symbols": {"elementary"},
    "derive": {"elementary", "symbols"},
    "cells": {"bodies", "derive"},
    "custom": {"cells", "derive", "symbols", "validate"},
    "errors": set(),
    "packing": set(),
    "validate": set(),
    "threads": {"_team"},
    "memory": {"_memory"},
    "config": {"backends", "backends.cython", "errors", "jit", "threads"},
    "backends": {"cells", "errors", "validate"},
    "backends.reference": {"backends", "cells", "symbols"},
    "backends.cython": {"_cpu", "_team", "backends", "backends.rows", "cells", "errors", "memory", "threads"},
    "backends.rows": set(),
    "backends.numba": {"backends", "cells", "errors", "jit"},
    "backends.cuda": {"backends", "cells", "cuda", "errors"},
    "cuda": {
        "atomic",
        "backends",
        "backward",
        "call",
        "cells",
        "derive",
        "errors",
        "sequence",
        "stream",
        "validate",
        "vjp",
    },
    "jit": {
        "_memory",
        "backends",
        "backends.rows",
        "bodies",
        "cells",
        "derive",
        "elementary",
        "errors",
        "layers",
        "memory",
        "symbols",
        "threads",
        "validate",
    },
    "tape": {"backends"},
    "sequence": {"backends", "cells", "tape", "threads"},
    "backward": {"backends", "cells", "sequence", "tape", "threads"},
    "call": {"cells", "packing", "sequence", "validate"},
    "vjp": {"backward", "call", "packing", "sequence", "tape", "validate"},
    "stream": {"sequence", "validate"},
    "gates": {"backends.reference", "cells", "layers"},
    "plot": {"gates"},
    "product": {"backends", "backends.cython", "threads"},
    "functional": {"backends", "call", "cells", "packing", "sequence", "validate", "vjp"},
    "testing": {"validate"},
    "losses": {"validate"},
    "optim": {"backends", "backends.cython", "threads", "validate"},
    "data": {"packing", "validate"},
    "checkpoint": {"atomic", "cells", "errors", "validate"},
    "layers": {
        "backends",
        "call",
        "cells",
        "checkpoint",
        "cuda",
        "custom",
        "errors",
        "packing",
        "product",
        "sequence",
        "stream",
        "validate",
        "vjp",
    },
    "interop": {
        "_team",
        "backends",
        "call",
        "cells",
        "checkpoint",
        "errors",
        "fastrnn",
        "layers",
        "packing",
        "sequence",
        "threads",
        "validate",
        "vjp",
    },
    "cli": {"atomic", "cells", "checkpoint", "config", "cuda", "elementary", "errors", "fastrnn", "plot"},
}
MAY_IMPORT_TORCH = ("interop/", "cli/engines.py", "cli/gpu/")


def modules_after(code):
    program = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


def test_import_is_light():
    added = modules_after("import fastrnn") - modules_after("import numpy")
    assert "fastrnn" in added
    heavy = ("numba", "torch", "rich", "safetensors", "ml_dtypes", "numpy.random", "fastrnn.cli", "fastrnn.checkpoint")
    heavy += ("fastrnn.vjp", "fastrnn.functional", "fastrnn.testing")
    heavy += ("fastrnn.losses", "fastrnn.optim", "fastrnn.data")
    assert not [name for name in added if any(name == h or name.startswith(f"{h}.") for h in heavy)]


def test_bodies_need_no_numba():
    loaded = modules_after("import fastrnn.bodies, fastrnn.derive")
    assert "fastrnn.derive" in loaded
    assert "numba" not in loaded


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.name.split(".")[0])
def test_compiled_modules_import_nothing_of_ours(path):
    name = f"fastrnn.{path.name.split('.')[0]}"
    code = (
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        f"spec = spec_from_file_location({name!r}, {str(path)!r})\n"
        "spec.loader.exec_module(module_from_spec(spec))"
    )
    loaded = modules_after(code)
    assert not {module for module in loaded if module.split(".")[0] == "fastrnn"} - {name}
    assert "numpy" not in loaded


def test_compiled_modules_are_found():
    assert {"_cpu", "_memory", "_team"} < {path.name.split(".")[0] for path in COMPILED}


def imported(path):
    """Absolute names of what a file imports, anywhere in it: ``from a import b`` is a.b."""
    package = ["fastrnn", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            # import_module("torch"), and functions of our own around it
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if "import" in function and isinstance(node.args[0].value, str):
                yield node.args[0].value


def part(name):
    """The key in ALLOWED for a module's dotted name, or for that of something in it; None if it is not ours."""
    first, *rest = name.split(".")
    if first != "fastrnn":
        return None
    if rest[:1] == ["backends"]:
        return ".".join(rest[:2]) if f"backends.{rest[1] if rest[1:] else ''}" in ALLOWED else "backends"
    return rest[0] if rest and (rest[0] in ALLOWED or rest[0] in ("_cpu", "_memory", "_team")) else "fastrnn"


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(["fastrnn", *(p for p in parts if p != "__init__")])


def test_rules():
    broken = []
    for path in FILES:
        here = part(module_name(path))
        for name in imported(path):
            there = part(name)
            if there is not None and there != here and there not in ALLOWED[here]:
                broken.append(f"{module_name(path)} imports {name}")
    assert not broken


def test_every_module_has_a_rule():
    """A module without a rule of its own would pass as part of the public names."""
    for path in FILES:
        name = module_name(path).split(".")[1:]
        key = ".".join(name[:2]) if name[:1] == ["backends"] else (name or ["fastrnn"])[0]
        assert key in ALLOWED, path
    assert len(FILES) > len(ALLOWED)


def test_torch_is_imported_where_it_may_be():
    users = {p.relative_to(PACKAGE).as_posix() for p in FILES if "torch" in {n.split(".")[0] for n in imported(p)}}
    assert "cli/engines.py" in users  # so this test sees imports
    assert not [path for path in users if not path.startswith(MAY_IMPORT_TORCH)]
