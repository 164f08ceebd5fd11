"""fastrnn's own times from commit to commit, one thread. Each file is about one thing that users wait for."""

from __future__ import annotations

import os

# Before NumPy is imported: the reference backend multiplies with its BLAS.
for _name in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"
