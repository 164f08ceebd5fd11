"""A GPU without a GPU: runs the source of kernels whose blocks wait for each other.

Every CUDA thread is a greenlet and all blocks are alive at the same time, in an order that a seed decides: warps run at
different speeds, lanes fall behind, stores are seen late (see `device_memory`). Numbers are Python floats. ::

    kernel = load("small_batch").kernel(LSTM, ...)
    outcome = run(kernel, (blocks, directions), arguments, seed=1)

Reports as a `Fault`: races, accesses outside of an array or of shared memory that was not written, threads of a warp or
a block that part where they must not, blocks that wait for each other for ever. What it does not know: time, how many
registers there are, the order in which a compiler puts plain loads and stores of one thread (none of these is seen
without a race), float32's rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from device_memory import BadAccess, Fault, Memory, Race
from simt import LANES, Deadlock, Divergence, Launch
from stand_ins import SENTINEL, load

__all__ = ["SENTINEL", "BadAccess", "Deadlock", "Divergence", "Fault", "Outcome", "Race", "load", "run"]


@dataclass
class Outcome:
    """What a launch did: rounds of the scheduler, switches between threads; loads that the whole device sees, how many
    of them saw an old value; stores.
    """

    rounds: int
    switches: int
    loads: int
    stale: int
    stores: int


def run(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: Sequence[Any],
    *,
    seed: int = 0,
    delay: int = 60,
    patience: int = 100,
    round_to_tf32: bool = False,
) -> Outcome:
    """Run a kernel to its end.

    Parameters
    ----------
    kernel : Kernel
        As the factories in `fastrnn.cuda` make them, from a module that `load` loaded.
    grid : tuple of int
        Blocks in x, y and z.
    arguments : sequence
        For each parameter a number, or a one-dimensional array (or list), which takes what was written. The same array
        twice is one array. float64 arrays lose nothing.
    seed : int
        Decides the order of everything.
    delay : int
        Rounds until a store is seen, at most.
    patience : int
        After how many more rounds without a store, an end, a barrier or much work it is a deadlock.
    round_to_tf32 : bool
        Whether tensor cores get numbers rounded to tf32. By default their products are exact.

    Raises
    ------
    Fault
        Of one of its kinds.
    """
    if kernel.threads % LANES:
        raise Fault(f"{kernel.threads} threads a block: not whole warps")
    launch = Launch(
        kernel.function,
        (*grid, 1, 1)[:3],
        kernel.threads,
        seed=seed,
        delay=delay,
        dynamic=kernel.shared,
        round_to_tf32=round_to_tf32,
    )
    names = kernel.function.__code__.co_varnames
    if not len(arguments) == len(kernel.parameters) == kernel.function.__code__.co_argcount:
        raise Fault(
            f"{len(arguments)} arguments for the parameters {kernel.parameters!r} of "
            f"{kernel.function.__name__}{names[: kernel.function.__code__.co_argcount]}"
        )
    memories: dict[int, tuple[Any, Memory]] = {}
    for name, letter, argument in zip(names, kernel.parameters, arguments, strict=False):
        if letter == "n":
            launch.arguments.append(int(argument))
            continue
        if id(argument) not in memories:
            values = argument.tolist() if isinstance(argument, np.ndarray) else list(argument)
            memories[id(argument)] = argument, Memory(name, values, launch, "f" if letter == "f" else "i")
        launch.arguments.append(memories[id(argument)][1])
    try:
        launch.go(patience)
    finally:
        for array, memory in memories.values():
            for i, value in memory.result().items():
                array[i] = value
    return Outcome(launch.time, launch.switches, launch.loads, launch.stale, launch.stores)
