"""fastrnn's threads under `threadpoolctl`: importing this module registers them.

After ``import fastrnn.interop.threadpoolctl``, ``threadpoolctl.threadpool_limits(limits=1)`` limits fastrnn as well, in
the whole process, and ``threadpoolctl.threadpool_info()`` lists it. Its ``user_api`` is ``"fastrnn"``.
"""

from __future__ import annotations

from pathlib import Path

from .. import _team
from ..threads import get_num_threads, set_num_threads

try:
    import threadpoolctl
except ImportError as error:
    raise ImportError("fastrnn.interop.threadpoolctl needs threadpoolctl: pip install threadpoolctl") from error


class FastrnnController(threadpoolctl.LibController):  # type: ignore[misc]
    """What threadpoolctl asks for a library that it found among those loaded."""

    user_api = internal_api = "fastrnn"
    # One of the extension modules stands for the package: of those, the one that is loaded as soon as fastrnn is.
    filename_prefixes = (Path(_team.__file__).name.lower(),)
    check_symbols = ("PyInit__team",)

    def get_num_threads(self) -> int:
        return get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        set_num_threads(num_threads)

    def get_version(self) -> str:
        from .. import __version__

        return str(__version__)


threadpoolctl.register(FastrnnController)
