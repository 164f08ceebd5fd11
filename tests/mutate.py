"""Does a test fail for every wrong gradient term? A script and not a test: ``python tests/mutate.py``, ten minutes.

Every term of every gradient, in `backends/reference.py` and in the compiled kernels, has its sign turned and is
dropped; every factor of a product is dropped. A mutant is one such change. Each is printed with the first test that
fails for it, or as SURVIVED: then the script fails. What is computed forth, or cleared for safety, is not changed.

All mutants are compiled into one copy of the package, in a temporary folder. FASTRNN_MUTANT, a number, says which of
them is in force, and 0 none. The kernels' are those of one instruction set (FASTRNN_ISA, or the best) in float32. What
is installed must have been built from these sources.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple, TypeGuard

import fastrnn
from fastrnn.backends.cython import ISA

ROOT = Path(__file__).parents[1]

#: What must fail, for either part: arguments of pytest.
TESTS = {
    "reference": ["tests/test_reference_gradients.py", "tests/test_custom_cells.py", "-k", "not numba"],
    "kernels": ["tests/test_gradients.py", "-k", "cython and not float64"],
}
TIMEOUT = 600  # seconds for the tests of one mutant

TURNED, DROPPED = "sign turned", "dropped"


class Mutant(NamedTuple):
    number: int
    part: str
    place: str
    term: str
    change: str

    def __str__(self) -> str:
        return f"{self.place}: {self.term}: {self.change}"


class Mutants(list[Mutant]):
    """Those of one part."""

    def __init__(self, part: str, start: int) -> None:
        super().__init__()
        self.part, self.start = part, start

    def add(self, place: str, term: str, *changes: str) -> int:
        """The number of the first."""
        first = self.start + len(self)
        self += [Mutant(first + i, self.part, place, term, change) for i, change in enumerate(changes)]
        return first


# --- expressions ------------------------------------------------------------------------------------------------------


def call(name: str, *args: ast.expr | int) -> ast.expr:
    return ast.Call(ast.Name(name), [ast.Constant(a) if isinstance(a, int) else a for a in args], [])


def called(node: ast.AST) -> str:
    """The last part of the name of what is called: "add" of ``np.add(a, b)``; "" of anything else."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def is_sum(node: ast.expr) -> TypeGuard[ast.BinOp]:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)


def is_product(node: ast.expr) -> TypeGuard[ast.BinOp]:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)


class Terms:
    """Wraps terms in calls of `term`, factors in calls of `factor`: these do what the mutant in force says.

    Such calls are valid Python and valid Cython.
    """

    def __init__(self, mutants: Mutants, path: str, line: int | None = None, used_once: Sequence[str] = ()) -> None:
        self.mutants, self.path, self.line = mutants, path, line
        self.used_once = used_once  # variables: a change where they are set is a change where they are used

    def _add(self, node: ast.expr, term: str, *changes: str) -> int:
        return self.mutants.add(f"{self.path}:{self.line or node.lineno}", term, *changes)

    def value(self, node: ast.expr) -> ast.expr:
        """What is assigned, returned or stored."""
        if isinstance(node, ast.Tuple | ast.List):
            node.elts = [self.value(element) for element in node.elts]
        elif isinstance(node, ast.IfExp):
            node.body, node.orelse = self.value(node.body), self.value(node.orelse)
        elif isinstance(node, ast.Call) and called(node) == "concatenate":
            node.args[0] = self.value(node.args[0])
        elif not isinstance(node, ast.Constant) and ast.unparse(node) not in self.used_once:
            return self._term(node)
        return node

    def _term(self, node: ast.expr, of: str = "") -> ast.expr:
        number = self._add(node, f"term {ast.unparse(node)} of {of}" if of else ast.unparse(node), TURNED, DROPPED)
        return call("term", number, self._inside(node))

    def _inside(self, node: ast.expr) -> ast.expr:
        whole = ast.unparse(node)
        if is_sum(node):
            node.left, node.right = self._term(node.left, whole), self._term(node.right, whole)
        elif is_product(node):
            return self._factors(node, whole)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            number = self._add(node, f"factor {ast.unparse(node.left)} of {whole}", DROPPED)
            node.right = call("factor", number, node.right)
        elif isinstance(node, ast.Call) and called(node) == "vfma":  # a * b + c
            a, b, c = node.args
            number = self._add(a, f"term {ast.unparse(a)} * ({ast.unparse(b)}) of {whole}", TURNED, DROPPED)
            node.args = [call("term", number, self._factors(a, whole)), self._factors(b, whole), self._term(c, whole)]
        elif isinstance(node, ast.Call) and called(node) in ("where", "vrelu_backward"):
            number = self._add(node, f"mask of {whole}", DROPPED)
            return ast.IfExp(ast.Compare(ast.Name("MUTANT"), [ast.Eq()], [ast.Constant(number)]), node.args[-1], node)
        return node

    def _factors(self, node: ast.expr, product: str) -> ast.expr:
        if is_product(node):
            same = ast.unparse(node.left) == ast.unparse(node.right)  # n * n: either
            left = node.left if same else self._factors(node.left, product)
            return ast.BinOp(left, node.op, self._factors(node.right, product))
        number = self._add(node, f"factor {ast.unparse(node)} of {product}", DROPPED)
        return call("factor", number, self._inside(node))


# --- the reference ----------------------------------------------------------------------------------------------------

IN_PYTHON = """

import os

MUTANT = int(os.environ.get("FASTRNN_MUTANT", "0"))


def term(number, value):
    return -value if MUTANT == number else 0 * value if MUTANT == number + 1 else value


def factor(number, value):
    return 1.0 if MUTANT == number else value


def without(number, value):
    return None if MUTANT == number else value
"""


def mutate_reference(package: Path, mutants: Mutants) -> None:
    file = package / "backends/reference.py"
    tree = ast.parse(file.read_text())
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and re.fullmatch(r"\w+_cell_backward|backward|_add", function.name):
            nodes = list(ast.walk(function))
            uses = Counter(n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
            terms = Terms(mutants, "fastrnn/backends/reference.py", used_once=[v for v, n in uses.items() if n == 1])
            for node in sorted((n for n in nodes if isinstance(n, ast.stmt)), key=lambda n: n.lineno):
                mutate_statement(node, terms)
    file.write_text(ast.unparse(tree) + IN_PYTHON)


def mutate_statement(node: ast.stmt, terms: Terms) -> None:
    """Gradients are what is put into variables whose names begin with d, returned, or added to sums."""
    if isinstance(node, ast.Return) and node.value:
        node.value = terms.value(node.value)
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        if called(node.value).endswith("_cell_backward"):
            return
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = zip(target.elts, node.value.elts, strict=True)
            node.value.elts = [terms.value(v) if ast.unparse(t).startswith("d") else v for t, v in pairs]
        elif ast.unparse(target).startswith("d"):
            node.value = terms.value(node.value)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        args = node.value.args
        if called(node.value) == "add":
            args[1] = terms.value(args[1])
        elif called(node.value) == "_zero":
            place = f"{terms.path}:{node.lineno}"
            for i, state in enumerate(args[1:], 1):
                number = terms.mutants.add(place, f"zeros for {ast.unparse(state)} at a reset", DROPPED)
                args[i] = call("without", number, state)


# --- the kernels ------------------------------------------------------------------------------------------------------

IN_CYTHON = (ROOT / "tests/mutants.pxi").read_text()

#: Calls in `backward_loop.pxi` by function: how they begin. Not in the list are those that clear what is cleared or
#: overwritten elsewhere, or is in lanes that nothing reads: without them nothing changes.
CALLS = {
    "backward": ("stop_at_resets(", "leave_back("),
    "step_back": ("add_row(", "copy_row(", "memset(dh ", "add_product("),
    "products_back": ("add_product(", "copy_row(", "memset(s.dx ", "add_outer(", "add_rows("),
    "join_back": ("copy_row(",),
    "leave_back": ("copy_row(",),
    "stop_at_resets": ("memset(",),
}


def mutate_kernels(package: Path, mutants: Mutants) -> None:
    found: list[tuple[str, str]] = []
    for name in ("cells_backward.pxi", "backward_loop.pxi", "packing.pxi"):
        file = package / "_kernels" / name
        statements = list(logical_lines(file.read_text()))
        found += [(function, code.strip()) for function, _, code in statements]
        lines = [mutated(mutants, f"fastrnn/_kernels/{name}", *statement) for statement in statements]
        file.write_text("\n".join(lines) + "\n")
    for function, begins in CALLS.items():
        for begin in begins:
            assert any(f == function and code.startswith(begin) for f, code in found), f"{function} has no {begin}"
    (package / "_kernels/mutants.pxi").write_text(IN_CYTHON)
    file = package / "_kernels.pyx"
    first = 'include "_kernels/cells.pxi"\n'
    text = file.read_text()
    assert first in text
    file.write_text(text.replace(first, 'include "_kernels/mutants.pxi"\n' + first))


def logical_lines(text: str) -> Iterator[tuple[str, int, str]]:
    """Statements that begin on a line of their own: the function that they are in, the number of the line, the text."""
    function, held, depth = "", "", 0
    for number, line in enumerate(text.splitlines(), 1):
        code = line.partition("#")[0]
        if depth == 0 and (found := re.match(r"cdef .*?(\w+)\(", line)):
            function = found[1]
        held += line if depth == 0 else " " + code.strip()
        depth += sum(code.count(c) for c in "([{") - sum(code.count(c) for c in ")]}")
        if depth == 0:
            yield function, number, held
            held = ""


def mutated(mutants: Mutants, path: str, function: str, line: int, text: str) -> str:
    """A statement that does what the mutant in force says."""
    indent, code = re.match(r"( *)(.*)", text).groups()
    code = code.partition("#")[0].strip()
    place, terms = f"{path}:{line}", Terms(mutants, path, line)
    if function.endswith("_cell_backward"):
        return indent + mutated_in_cell(terms, code) if code.startswith(("cdef vec", "vstore", "y, d =")) else text
    if function == "unpack_bias" and code.endswith("= at[0]"):
        to = code.removesuffix("at[0]")
        return f"{indent}{to}number_term({mutants.add(place, code, TURNED, DROPPED)}, at[0])"
    if function == "previous" and code.startswith("return <"):
        return f"{indent}if MUTANT == {mutants.add(place, code, DROPPED)}: return s.zeros\n{text}"
    if function == "previous" and code.startswith("if run.reset != NULL"):
        return text.replace("if ", f"if MUTANT != {mutants.add(place, code.rstrip(':'), DROPPED)} and ", 1)
    if code.startswith(CALLS.get(function, ())):
        term = shorten(code, 90, placeholder=" ...")
        if f"minus_{code.partition('(')[0]}" not in IN_CYTHON:
            return f"{indent}if MUTANT != {mutants.add(place, term, DROPPED)}: {code}"
        number = mutants.add(place, term, TURNED, DROPPED)
        return f"{indent}if MUTANT == {number}: minus_{code}\n{indent}elif MUTANT != {number + 1}: {code}"
    return text


def mutated_in_cell(terms: Terms, code: str) -> str:
    if code.startswith("cdef vec"):
        # ``cdef vec a = x, b = y`` reads like the arguments of a call.
        names = ast.parse(f"f({code.removeprefix('cdef vec ')})", mode="eval").body.keywords
        for name in names:
            name.value = terms.value(name.value) if name.arg.startswith("d") else name.value
        return "cdef vec " + ", ".join(f"{n.arg} = {ast.unparse(n.value)}" for n in names) if names else code
    (statement,) = ast.parse(code).body
    if isinstance(statement, ast.Expr) and called(statement.value) == "vstore":
        if code.endswith("vzero())"):
            return f"if MUTANT != {terms.mutants.add(f'{terms.path}:{terms.line}', code, DROPPED)}: {code}"
        args = statement.value.args
        args[1] = terms.value(args[1])
    else:
        mutate_statement(statement, terms)
    return ast.unparse(statement)


BUILD = """
import sys
sys.path.insert(0, ".")
import setup
import setuptools
isa = sys.argv[1]
macros = [("FASTRNN_REAL", "32")]
kernels = setup.extension(f"_kernels_f32_{isa}", "fastrnn/_kernels.pyx", setup.instruction_sets()[isa], macros)
setuptools.setup(packages=["fastrnn"], ext_modules=[kernels], script_args=["-q", "build_ext", "--inplace", "--force"])
"""


# --- running ----------------------------------------------------------------------------------------------------------


def failing_test(folder: Path, part: str, number: int) -> str:
    """The first test that fails for a mutant, or ""."""
    environment = {**os.environ, "FASTRNN_MUTANT": str(number), "FASTRNN_ISA": ISA, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", *TESTS[part]]
    run = partial(subprocess.run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    try:
        done = run(command)
    except subprocess.TimeoutExpired:
        return f"no end in {TIMEOUT} s"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    if (found := re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)) is None:
        sys.exit(f"pytest did not run tests for mutant {number}:\n{done.stdout}{done.stderr}")
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TESTS, help="one part")
    parser.add_argument("--match", default="", metavar="TEXT", help="only mutants whose line in the list contains it")
    parser.add_argument("--list", action="store_true", help="print what would be run")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="tests of so many mutants at a time (default 2)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        package = folder / "fastrnn"
        for source in (Path(fastrnn.__file__).parent, ROOT / "fastrnn"):  # compiled modules, sources
            shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        shutil.copy(ROOT / "setup.py", folder)
        mutants: list[Mutant] = []
        for part, mutate in (("reference", mutate_reference), ("kernels", mutate_kernels)):
            if args.only in (None, part):
                new = Mutants(part, len(mutants) + 1)
                mutate(package, new)
                mutants += new
        mutants = [m for m in mutants if args.match in str(m)]
        if args.list:
            print(*mutants, f"{len(mutants)} mutants", sep="\n")
            return 0
        return run(folder, mutants, args.j)


def run(folder: Path, mutants: list[Mutant], jobs: int) -> int:
    parts = sorted({m.part for m in mutants})
    if "kernels" in parts:
        subprocess.run([sys.executable, "-c", BUILD, ISA], cwd=folder, check=True)
    for part in parts:
        if failed := failing_test(folder, part, 0):
            sys.exit(f"fails without a mutant: {failed}")
    survived = 0
    with ThreadPoolExecutor(jobs) as pool:
        for mutant, failed in zip(
            mutants, pool.map(lambda m: failing_test(folder, m.part, m.number), mutants), strict=True
        ):
            print(f"{mutant}: {f'killed by {failed}' if failed else 'SURVIVED'}", flush=True)
            survived += not failed
    print(f"{len(mutants)} mutants, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
