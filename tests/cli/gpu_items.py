"""Items for the tests of the GPU check: what can become of one. They are run in other processes."""

from __future__ import annotations

import os
import signal
import time

from fastrnn.cli.gpu.worker import NotHere


def machine(alone):
    return {"device": "A GPU", "capability": "9.0", "multiprocessors": 132, "driver": "1.2", "numpy": "2"}


def no_machine(alone):
    from fastrnn import BackendError

    raise BackendError("no GPU\nhere")


def right(value, alone):
    return {"process": os.getpid(), "of_allowed": value}


def wrong(alone):
    return {"process": os.getpid(), "of_allowed": float("inf"), "verdict": "WRONG", "why": "off by far"}


def raises(alone):
    raise RuntimeError("an illegal\nmemory access")


def not_here(alone):
    raise NotHere("not for H=3")


def dies(alone):
    os._exit(7)


def crashes(alone):
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(alone):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def hangs_alone(alone):
    alone()
    time.sleep(600)


def unpicklable(alone):
    return {"function": lambda: None}


def prints(alone):
    print("a compiler's chatter", flush=True)
    os.write(1, b"and the driver's\n")
    return {}


def timed(path, alone):
    """Writes when it had the GPU for itself."""
    alone()
    began = time.monotonic()
    time.sleep(0.1)
    with open(path, "a") as file:
        file.write(f"{began} {time.monotonic()}\n")
    return {"ms": 1.0, "us_per_step": 2.0, "ran": "A"}
