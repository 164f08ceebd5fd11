"""fastrnn's own times from commit to commit, one thread. Each file is about one thing that users wait for."""

from __future__ import annotations

import threadpoolctl

# The reference backend multiplies with NumPy's BLAS, which asv has loaded by now: too late for environment variables.
threadpoolctl.threadpool_limits(1)
