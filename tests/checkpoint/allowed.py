"""Finds, in a module's source and in its bytecode, what would let a file choose what is imported or called.

Both are lists of what is allowed, so that whatever nobody has thought of is found too.
"""

from __future__ import annotations

import ast
import builtins
import dis
import types
from collections.abc import Iterator

_NUMPY = (
    "array asarray ascontiguousarray bool_ bytes_ complex64 concatenate conjugate count_nonzero datetime_data dtype "
    "empty errstate flatnonzero float16 float32 float64 floating frombuffer generic int64 integer lib ndarray negative "
    "number packbits prod sqrt str_ sum uint64 uint8 unpackbits zeros"
)
_BUILTINS = (
    "AttributeError Exception MemoryError NotImplemented OSError RecursionError TypeError UnicodeDecodeError "
    "UnicodeEncodeError ValueError all any ascii bool bytearray bytes complex dict enumerate float format frozenset "
    "getattr hasattr hash id int isinstance iter len list map max memoryview min next object open ord property range "
    "repr reversed set slice sorted str sum super tuple type zip"
)
#: Modules, and of those that can do more than is wanted here what may be used.
IMPORTS = {
    "__future__": None,
    "collections": {"Counter", "OrderedDict"},
    "collections.abc": None,
    "contextlib": {"ExitStack", "suppress"},
    "dataclasses": {"dataclass", "field"},
    "functools": {"cache", "partial"},
    "io": {"BytesIO"},
    "itertools": None,
    "json": {"loads", "dumps"},
    "math": None,
    "ml_dtypes": set(),
    "mmap": None,
    "numpy": set(_NUMPY.split()),
    "numpy.typing": None,
    "os": {"PathLike", "fsdecode", "fspath", "fstat"},
    "pathlib": {"Path"},
    "re": None,
    "safetensors": {"SafetensorError", "deserialize", "safe_open"},
    "stat": None,
    "struct": None,
    "sys": {"byteorder"},
    "typing": None,
    "zlib": None,
}
BUILTINS = set(_BUILTINS.split())
MODULE_NAMES = {"__all__", "__annotations__", "__file__", "__name__"}
#: Attributes with two underscores lead everywhere.
SPECIAL = {"__init__", "__getitem__", "__setstate__", "__array_interface__", "__cause__", "__name__", "__slots__"}
#: What a file says of a class or an object: never to be called.
OF_FILES = {"module", "name", "args", "state"}
#: Attributes that are never taken, whatever of.
WILD = {"as_strided", "find_class", "import_module", "load", "memmap", "modules", "stride_tricks", "system"}
#: Local variables that are called. Their values are functions of the package, as the tests below show.
CALLED = {"children", "fail", "function", "handler", "read", "write"}
#: Arguments that are called.
CALLING = {"map": 0, "filter": 0, "partial": 0, "sorted": None, "min": None, "max": None}


def in_source(text: str) -> set[str]:
    walk = _Walk()
    walk.visit(ast.parse(text))
    return walk.found


class _Walk(ast.NodeVisitor):
    """Keeps, for each scope around a node, which names are functions or modules (True) and which variables."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._scopes: list[dict[str, bool]] = []
        self._modules: dict[str, str] = {}

    def visit(self, node: ast.AST) -> None:
        opens = isinstance(node, ast.Module | ast.FunctionDef | ast.Lambda | ast.ClassDef)
        if opens:
            self._scopes.append(dict(_bound(node)))
        getattr(self, f"_{type(node).__name__}", lambda _: None)(node)
        self.generic_visit(node)
        if opens:
            self._scopes.pop()

    def _Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._modules[alias.asname or alias.name] = alias.name
            if alias.name not in IMPORTS:
                self.found.add(f"imports {alias.name}")

    def _ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            return
        allowed = IMPORTS.get(node.module or "", set())
        for alias in node.names:
            if node.module not in IMPORTS or (allowed is not None and alias.name not in allowed):
                self.found.add(f"imports {node.module}.{alias.name}")

    def _Name(self, node: ast.Name) -> None:
        if (hasattr(builtins, node.id) or node.id.startswith("__")) and node.id not in BUILTINS | MODULE_NAMES:
            self.found.add(f"names {node.id}")

    def _arg(self, node: ast.arg) -> None:
        if node.arg in ("getattr", "hasattr", "type", "map"):
            self.found.add(f"gives {node.arg} another meaning")

    def _Attribute(self, node: ast.Attribute) -> None:
        if (node.attr.startswith("__") and node.attr not in SPECIAL) or node.attr in WILD:
            self.found.add(f"takes .{node.attr}")
        if isinstance(node.value, ast.Name) and node.value.id in self._modules:
            module = self._modules[node.value.id]
            allowed = IMPORTS.get(module, set())
            if allowed is not None and node.attr not in allowed:
                self.found.add(f"takes {module}.{node.attr}")

    def _Call(self, node: ast.Call) -> None:
        self._check(node.func)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in CALLING and CALLING[name] is not None and node.args:
            self._check(node.args[0])
        for keyword in node.keywords:
            if keyword.arg in ("key", "default_factory", "object_pairs_hook", "parse_int"):
                self._check(keyword.value)
        if name in ("getattr", "hasattr") and not isinstance(node.args[1], ast.Constant):
            self.found.add(f"{name} of a variable")
        if name == "type" and len(node.args) != 1:
            self.found.add("makes a class")

    def _check(self, callee: ast.expr) -> None:
        match callee:
            case ast.Lambda():
                return
            case ast.Attribute(attr=attr):
                if attr in OF_FILES:
                    self.found.add(f"calls .{attr}")
            case ast.Name(id=name):
                known = next((scope[name] for scope in reversed(self._scopes) if name in scope), True)
                if not known and name not in CALLED:
                    self.found.add(f"calls {name}")
            case _:
                self.found.add(f"calls {ast.unparse(callee)}")


def _bound(scope: ast.AST) -> Iterator[tuple[str, bool]]:
    """The names that a scope binds: True for functions, classes and modules, False (last, so that it counts) for
    variables.
    """
    pending, variables = list(ast.iter_child_nodes(scope)), set()
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, True
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name, True) for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            variables.add(node.id)
        elif isinstance(node, ast.arg):
            variables.add(node.arg)
        if isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            variables.add(node.name)
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            pending += ast.iter_child_nodes(node)
    yield from ((name, False) for name in variables)


def in_bytecode(text: str) -> set[str]:
    """The same names, where the interpreter meets them; comprehensions and lambdas are code of their own."""
    found = set()
    codes = [compile(text, "module", "exec")]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        for step in dis.get_instructions(code):
            name = step.argval
            if step.opname == "IMPORT_NAME" and name not in IMPORTS and not _relative(code, step):
                found.add(f"imports {name}")
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                if (hasattr(builtins, name) or name.startswith("__")) and name not in BUILTINS | MODULE_NAMES:
                    found.add(f"names {name}")
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "IMPORT_FROM"):
                if (name.startswith("__") and name not in SPECIAL) or name in WILD:
                    found.add(f"takes .{name}")
            elif step.opname == "IMPORT_STAR":
                found.add("imports *")
    return found


def _relative(code: types.CodeType, step: dis.Instruction) -> bool:
    """Whether IMPORT_NAME is of the package itself: the second constant before it is the number of dots."""
    constants = [s.argval for s in dis.get_instructions(code) if s.offset < step.offset and s.opname == "LOAD_CONST"]
    return isinstance(constants[-2], int) and constants[-2] > 0
