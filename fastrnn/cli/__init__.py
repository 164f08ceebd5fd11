"""The command line: ``fastrnn COMMAND``, the same as ``python -m fastrnn COMMAND``.

Each command is a file with two functions: ``add_arguments(parser)``, and ``execute(args)``, which returns the exit
status: 0 right, 1 a finding (a disagreement, a bad file). Wrong usage is an exception and ends with 2.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from ..errors import BackendError, CheckpointError
from .parser import parse
from .show import plain


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        The exit status: 0 right, 1 a finding, 2 wrong usage, 130 after Ctrl-C.
    """
    _prepare_process()
    try:
        return _execute(sys.argv[1:] if argv is None else list(argv))
    except CheckpointError as error:
        return _complain(error, 1)
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Python flushes stdout once more at exit: to nowhere.
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else error, 2)
    except (ValueError, TypeError, BackendError, MemoryError) as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        return 130


def _execute(argv: list[str]) -> int:
    try:
        args = parse(argv)
        status: int = args.execute(args)
    except SystemExit as stop:  # --help, --version, a signal
        status = int(stop.code or 0)
    if sys.stdout is not None:
        sys.stdout.flush()  # a broken pipe should show here, where it is caught
    return status


def _complain(error: BaseException | str, status: int) -> int:
    """One line on stderr, whatever the message holds."""
    text = plain(" ".join(str(error).split())) or type(error).__name__
    with suppress(OSError, ValueError, AttributeError):  # stderr may be closed as well
        print(f"fastrnn: error: {text}", file=sys.stderr, flush=True)
    return status


def _prepare_process() -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without our characters is no reason to stop
    if threading.current_thread() is threading.main_thread():
        # An exception, so that files half-written are removed when a batch system ends the process.
        for name in ("SIGTERM", "SIGHUP"):
            signum = getattr(signal, name, None)
            if signum is not None and signal.getsignal(signum) == signal.SIG_DFL:
                signal.signal(signum, _terminate)


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)
