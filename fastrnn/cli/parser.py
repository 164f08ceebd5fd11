"""The arguments of all commands, and what to say when they are wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import fastrnn

from .show import did_you_mean

COMMANDS = {
    "demo": "run the shipped models and compare with what torch recorded",
    "inspect": "show a checkpoint's layers and arrays (also: fastrnn FILE)",
    "run": "run a layer over an array of any size",
    "verify": "hold every backend to the float64 reference and to recorded outputs",
    "bench": "time a few layers on this machine, beside torch and onnxruntime where they are installed",
    "convert": "write a checkpoint in another format",
}
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".onnx")


class Parser(argparse.ArgumentParser):
    """Takes names as they are, shows help as it was written; its errors are exceptions."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")

    def option_names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]


class Version(argparse.Action):
    """Not argparse's own: that one wants to know the version, which takes a while, when it is not asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"fastrnn {fastrnn.__version__}")
        parser.exit()


def parse(argv: list[str]) -> argparse.Namespace:
    """The parsed arguments; ``args.execute`` is the command's function.

    Raises
    ------
    ValueError
        They are wrong; names the nearest valid name.
    SystemExit
        After --help and --version.
    """
    if argv and argv[0] not in COMMANDS and not argv[0].startswith("-"):
        if not (os.path.exists(argv[0]) or os.sep in argv[0] or argv[0].endswith(SUFFIXES)):
            raise ValueError(f"no command or file {argv[0]!r}{did_you_mean(argv[0], COMMANDS)}")
        argv = ["inspect", *argv]
    parser = Parser(prog="fastrnn", description="RNN, LSTM and GRU layers from torch checkpoints, in NumPy.")
    parser.add_argument("--version", action=Version, help="show the version and exit")
    if argv and argv[0].startswith("-") and argv[0] not in (valid := parser.option_names()):
        from difflib import get_close_matches

        name = argv[0].partition("=")[0]
        near = get_close_matches(name, valid, 1, 0.7)  # --json is not near to --version
        hint = did_you_mean(name, near) or "; options of a command or file stand behind it"
        raise ValueError(f"fastrnn has no option {name!r}{hint} (see fastrnn --help)")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    used = parser
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if argv and argv[0] == name:
            used = command
            module = import_module(f".{name}", __package__)  # the others' imports would only take time
            command.description = module.__doc__
            command.set_defaults(execute=module.execute)
            module.add_arguments(command)
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].partition("=")[0]
        if name.startswith("-"):
            raise ValueError(f"{used.prog} has no option {name!r}{did_you_mean(name, used.option_names())}")
        raise ValueError(f"{used.prog} does not know what to do with {name!r}")
    return args
