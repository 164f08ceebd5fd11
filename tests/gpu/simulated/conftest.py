"""What the tests of layers in the simulator share."""

from __future__ import annotations

import pytest
from device_tools import KINDS


@pytest.fixture(params=KINDS, ids=repr)
def kind(request):
    """Runs the test with NumPy arrays, and with arrays on the GPU."""
    return request.param
