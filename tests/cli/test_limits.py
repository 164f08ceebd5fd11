"""Files of more parts than commands read by default."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn

COMMANDS = [
    ["inspect", "model.pt", "--json"],
    ["run", "model.pt", "--input", "x.npy", "--output", "y.npy"],
    ["verify", "model.pt"],
    ["convert", "model.pt", "out.pt"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_max_ops(cli, folder, command):
    np.save("x.npy", np.ones((3, 2, 4)))
    fastrnn.save({"gru": fastrnn.GRU(4, 3, rng=0).state_dict(), "losses": [0.5] * 1000}, "model.pt")
    status, out, err = cli(*command, "--max-ops", 500)
    assert (status, out) == (1, "")
    assert "max_ops=500" in err
    assert cli(*command, "--max-ops", 3000)[0] == 0
    status, _, err = cli(*command, "--max-ops", 0)
    assert status == 2
    assert "max_ops" in err
