"""What the tests of the command line share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn

DATA = Path(__file__).parents[1] / "data"
COMMANDS = ["demo", "inspect", "run", "verify", "convert"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals, pseudo-terminals and users of POSIX")


def subprocess_of(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-m", "fastrnn", *map(str, arguments)], **options)


def save_layer(layer, name="model.npz", prefix=""):
    fastrnn.save({prefix + key: array for key, array in layer.state_dict().items()}, name)
    return layer


def save_array(name, array):
    np.save(name, array)
    return array


def normal(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
