"""The extension modules and their flags; everything else is in pyproject.toml.

``_kernels.pyx`` is one source, compiled once per element type and instruction set. ``backends/cython.py`` loads the
best build that the processor runs.
"""

import os
import platform
import sys
from collections.abc import Sequence
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The same sources give the same wheel, whenever and wherever it is built.
os.environ.setdefault("SOURCE_DATE_EPOCH", "1767225600")

X86_64_LEVELS = {
    "x86_64_v2": ["-march=x86-64-v2"],
    "x86_64_v3": ["-march=x86-64-v3"],
    "x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
# No -ffast-math: NaN and infinity must travel. Contraction is off so that every multiply-add is one that we wrote.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"]
MSVC = sys.platform == "win32" and "clang" not in os.environ.get("CC", "")


def instruction_sets() -> dict[str, list[str]]:
    target = os.environ.get("_PYTHON_HOST_PLATFORM", platform.machine()).lower()
    if target.endswith(("x86_64", "amd64")) and not MSVC:
        return X86_64_LEVELS
    return {"generic": []}


def extension(name: str, source: str, flags: Sequence[str] = (), macros: Sequence[tuple[str, str]] = ()) -> Extension:
    # Each build of one source needs a C file of its own: Cython writes the module's name into it. The flags are set
    # afterwards, since cythonize adds up those of all extensions that have a source in common.
    plain = Extension(f"fastrnn.{name}", [source], depends=glob("fastrnn/*.h") + glob("fastrnn/_kernels/*.pxi"))
    (module,) = cythonize([plain], build_dir=f"build/cython/{name}", language_level=3)
    module.include_dirs = ["fastrnn"]
    module.define_macros = list(macros)
    module.extra_compile_args = ["/O2", "/fp:strict"] if MSVC else [*FLAGS, *flags]
    module.extra_link_args = [] if sys.platform in ("win32", "darwin") else ["-Wl,--strip-all"]
    return module


def extensions() -> list[Extension]:
    modules = [extension(name, f"fastrnn/{name}.pyx") for name in ("_cpu", "_team")]
    for isa, flags in instruction_sets().items():
        for bits in ("32", "64"):
            name = f"_kernels_f{bits}_{isa}"
            modules.append(extension(name, "fastrnn/_kernels.pyx", flags, [("FASTRNN_REAL", bits)]))
    return modules


class ParallelBuild(build_ext):
    """The builds are independent: use the cores that are there."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()


setup(ext_modules=extensions(), cmdclass={"build_ext": ParallelBuild})
