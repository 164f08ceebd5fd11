"""The extension modules and their flags; everything else is in pyproject.toml.

``_kernels.pyx`` is one source, compiled once per element type and instruction set. ``backends/cython.py`` loads the
best build that the processor runs.
"""

import os
import sys
import sysconfig
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
# On Windows, CC=clang-cl gives vectors; Microsoft's own compiler has no vector types, and builds lanes of one number.
WINDOWS = sys.platform == "win32"
CLANG_CL = WINDOWS and "clang-cl" in os.environ.get("CC", "")
CLANG_TARGETS = {"win-amd64": "x86_64-pc-windows-msvc", "win-arm64": "aarch64-pc-windows-msvc"}

# What is built for, and not what is built on. universal2, two architectures in one file, ends in neither of the names.
PLATFORM = sysconfig.get_platform()


def instruction_sets() -> dict[str, list[str]]:
    x86_64 = PLATFORM.endswith(("x86_64", "amd64")) and sys.maxsize > 2**32
    return X86_64_LEVELS if x86_64 and (CLANG_CL or not WINDOWS) else {"generic": []}


def compile_args(flags: Sequence[str]) -> list[str]:
    if CLANG_CL:  # it takes the flags of cl, and clang's own after a prefix; without, it ignores most of them
        return [f"--target={CLANG_TARGETS[PLATFORM]}", *(f"/clang:{flag}" for flag in (*FLAGS, *flags))]
    return ["/O2", "/fp:strict"] if WINDOWS else [*FLAGS, *flags]


def extension(name: str, source: str, flags: Sequence[str] = (), macros: Sequence[tuple[str, str]] = ()) -> Extension:
    # Each build of one source needs a C file of its own: Cython writes the module's name into it. The flags are set
    # afterwards, since cythonize adds up those of all extensions that have a source in common.
    plain = Extension(f"fastrnn.{name}", [source], depends=glob("fastrnn/*.h") + glob("fastrnn/_kernels/*.pxi"))
    (module,) = cythonize([plain], build_dir=f"build/cython/{name}", language_level=3)
    module.include_dirs = ["fastrnn"]
    module.define_macros = list(macros)
    module.extra_compile_args = compile_args(flags)
    module.extra_link_args = [] if sys.platform in ("win32", "darwin") else ["-Wl,--strip-all"]
    return module


def extensions() -> list[Extension]:
    modules = [extension(name, f"fastrnn/{name}.pyx") for name in ("_cpu", "_memory", "_team")]
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

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "msvc" and not self.compiler.initialized:
            self.compiler.initialize(self.plat_name)  # here once, and not by several threads at the same time
        if CLANG_CL:
            self.compiler.cc = os.environ["CC"]  # setuptools looks for cl only
        super().build_extensions()


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": ParallelBuild})
