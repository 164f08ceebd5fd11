"""Threads, warps and blocks of the executor, and who runs when. See `executor`."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from device_memory import UNWRITTEN, Fault, Memory, Site, site
from greenlet import getcurrent, greenlet

LANES = 32
ALL_LANES = 0xFFFFFFFF

_OWN_FILES = {str(Path(__file__).with_name(name)) for name in ("simt.py", "device_memory.py", "stand_ins.py")}


class Deadlock(Fault):
    """All threads wait, or poll what nobody will write."""


class Divergence(Fault):
    """Threads that must meet in one instruction are in different ones."""


class Clock(NamedTuple):
    """What a thread knew when it released something."""

    block: Block
    own: np.ndarray  # (threads of the block,)
    foreign: dict[Block, np.ndarray]

    def with_(self, other: Clock) -> Clock:
        foreign = _joined(self.foreign, other.foreign)
        if other.block is self.block:
            return Clock(self.block, np.maximum(self.own, other.own), foreign)
        return Clock(self.block, self.own, _joined(foreign, {other.block: other.own}))


def _joined(a: dict[Block, np.ndarray], b: dict[Block, np.ndarray]) -> dict[Block, np.ndarray]:
    if not b or a is b:
        return a
    joined = dict(a)
    for block, clock in b.items():
        joined[block] = np.maximum(joined[block], clock) if block in joined else clock
    return joined


class Thread(greenlet):
    """A CUDA thread."""

    def __init__(self, launch: Launch, block: Block, index: int) -> None:
        super().__init__(self._live, launch.scheduler)
        self.launch = launch
        self.block = block
        self.index = index
        self.lane = index % LANES
        self.warp = block.warps[index // LANES]
        self.epoch = 1
        self.clock = block.clocks[index]  # a view
        self.foreign: dict[Block, np.ndarray] = {}
        self.answer: Any = None
        self.loads = 0  # since it paused

    @property
    def name(self) -> str:
        return f"thread {self.index} of block {self.block.index}"

    def __str__(self) -> str:
        return f"{self.name} ({where(sys._getframe())})"

    def _live(self) -> None:
        self.launch.function(*self.launch.arguments)
        self.block.alive -= 1
        self.launch.progress += 1
        self.block.meet()

    def pause(self) -> None:
        """Let others run."""
        self.loads = 0
        self.warp.ready.append(self)
        self.warp.polls = True
        self.parent.switch()

    def knows(self, other: Thread, epoch: int) -> bool:
        """Whether what `other` did in that section comes before what this thread does now."""
        if other is self:
            return True
        if other.block is self.block:
            return bool(self.clock[other.index] >= epoch)
        clock = self.foreign.get(other.block)
        return clock is not None and bool(clock[other.index] >= epoch)

    def tell(self) -> Clock:
        clock = Clock(self.block, self.clock.copy(), self.foreign)
        self.epoch += 1
        self.clock[self.index] = self.epoch
        return clock

    def learn(self, clock: Clock) -> None:
        if clock.block is self.block:
            np.maximum(self.clock, clock.own, out=self.clock)
            self.foreign = _joined(self.foreign, clock.foreign)
        else:
            self.foreign = _joined(_joined(self.foreign, clock.foreign), {clock.block: clock.own})


class Arrival(NamedTuple):
    """A thread that waits for others, in which instruction, and what it brings."""

    thread: Thread
    operation: str
    site: Site
    value: Any = None
    argument: Any = None


class Warp:
    def __init__(self, number: int, speed: float) -> None:
        self.number = number
        self.speed = speed  # the chance to run in a round
        self.polls = False  # in which case others should run
        self.busy = 0  # steps without polling
        self.ready: list[Thread] = []
        self.groups: dict[int, dict[int, Arrival]] = {}  # by mask, by lane


class Block:
    def __init__(self, launch: Launch, number: int) -> None:
        self.number = number
        yz, x = divmod(number, launch.grid[0])
        z, y = divmod(yz, launch.grid[1])
        self.index = x, y, z
        self.alive = launch.threads
        self.clocks = np.zeros((launch.threads, launch.threads), np.int32)
        np.fill_diagonal(self.clocks, 1)
        self.warps = [Warp(w, launch.speed()) for w in range(-(-launch.threads // LANES))]
        self.arrivals: list[Arrival] = []
        self.shared: dict[Any, Memory] = {}
        for index in range(launch.threads):
            thread = Thread(launch, self, index)
            thread.warp.ready.append(thread)

    def meet(self) -> None:
        """End the barrier if all have come who will."""
        arrivals = self.arrivals
        if not arrivals or len(arrivals) < self.alive:
            return
        self.arrivals = []
        _check_same(arrivals, "barrier of a block")
        operation = arrivals[0].operation
        votes = [a.value for a in arrivals]
        together([a.thread for a in arrivals])
        for arrival in arrivals:
            arrival.thread.answer = _BARRIERS[operation](votes)
            arrival.thread.warp.ready.append(arrival.thread)
            arrival.thread.launch.progress += 1


_BARRIERS: dict[str, Callable[[list[Any]], Any]] = {
    "syncthreads": lambda votes: None,
    "syncthreads_and": lambda votes: int(all(votes)),
    "syncthreads_or": lambda votes: int(any(votes)),
    "syncthreads_count": lambda votes: sum(map(bool, votes)),
}


def together(threads: Sequence[Thread]) -> None:
    """Each comes to know what all of them, of one block, know and did."""
    block = threads[0].block
    rows = [t.index for t in threads]
    top = block.clocks[rows].max(0)
    block.clocks[rows] = top
    foreign = threads[0].foreign
    for t in threads:
        foreign = _joined(foreign, t.foreign)
    for t in threads:
        t.foreign = foreign
        t.epoch += 1
        t.clock[t.index] = t.epoch


def _check_same(arrivals: Sequence[Arrival], what: str) -> None:
    first = arrivals[0]
    for a in arrivals:
        if a.operation != first.operation or (a.site.code, a.site.instruction) != (
            first.site.code,
            first.site.instruction,
        ):
            raise Divergence(
                f"{what}: thread {first.thread.index} is in {first.operation} at {first.site}, "
                f"{a.thread.name} in {a.operation} at {a.site}"
            )


def barrier(operation: str, vote: Any = None) -> Any:
    """``cuda.syncthreads`` and its kin."""
    thread = getcurrent()
    thread.block.arrivals.append(Arrival(thread, operation, site(1), vote))
    thread.block.meet()
    thread.parent.switch()
    return thread.answer


def collective(operation: str, mask: int, value: Any = None, argument: Any = None) -> Any:
    """What the lanes in `mask` do together; see `_COLLECTIVES`."""
    thread = getcurrent()
    mask &= ALL_LANES
    if not mask >> thread.lane & 1:
        raise Divergence(f"{thread} is not in the mask {mask:#x} of its {operation}")
    groups = thread.warp.groups
    group = groups.setdefault(mask, {})
    group[thread.lane] = Arrival(thread, operation, site(1), value, argument)
    if len(group) < mask.bit_count():
        thread.parent.switch()
        return thread.answer
    del groups[mask]
    if operation == "syncwarp":  # lanes may meet in different ones
        if any(a.operation != operation for a in group.values()):
            _check_same([*group.values()], "lanes of a warp")
        together([a.thread for a in group.values()])
    else:
        _check_same([*group.values()], "lanes of a warp")
        _COLLECTIVES[operation](group)
    for arrival in group.values():
        if arrival.thread is not thread:
            thread.warp.ready.append(arrival.thread)
    return thread.answer


def _shuffle(source: Callable[[int, int], int]) -> Callable[[dict[int, Arrival]], None]:
    def act(group: dict[int, Arrival]) -> None:
        for lane, arrival in group.items():
            wanted = source(lane, arrival.argument)
            if not 0 <= wanted < LANES:
                wanted = lane
            if wanted not in group:
                raise Divergence(f"lane {lane} takes a number of lane {wanted}, which is not there, at {arrival.site}")
            arrival.thread.answer = group[wanted].value

    return act


def _vote(count: Callable[[dict[int, bool]], Any]) -> Callable[[dict[int, Arrival]], None]:
    def act(group: dict[int, Arrival]) -> None:
        answer = count({lane: bool(a.value) for lane, a in group.items()})
        for a in group.values():
            a.thread.answer = answer

    return act


def _mma(group: dict[int, Arrival]) -> None:
    """m16n8k8: lane ``4 g + t`` brings rows g and g + 8 of A and C, column g of B."""
    a, b, c = np.empty((16, 8)), np.empty((8, 8)), np.empty((16, 8))
    for lane, arrival in group.items():
        g, t = divmod(lane, 4)
        values = arrival.value
        a[g, t], a[g + 8, t], a[g, t + 4], a[g + 8, t + 4] = values[:4]
        b[t, g], b[t + 4, g] = values[4:6]
        c[g, 2 * t], c[g, 2 * t + 1], c[g + 8, 2 * t], c[g + 8, 2 * t + 1] = values[6:]
    d = (c + a @ b).tolist()
    for lane, arrival in group.items():
        g, t = divmod(lane, 4)
        arrival.thread.answer = (d[g][2 * t], d[g][2 * t + 1], d[g + 8][2 * t], d[g + 8][2 * t + 1])


_COLLECTIVES: dict[str, Callable[[dict[int, Arrival]], None]] = {
    "shfl_sync": _shuffle(lambda lane, source: source % LANES),
    "shfl_xor_sync": _shuffle(lambda lane, other: lane ^ other),
    "shfl_up_sync": _shuffle(lambda lane, delta: lane - delta),
    "shfl_down_sync": _shuffle(lambda lane, delta: lane + delta),
    "all_sync": _vote(lambda votes: all(votes.values())),
    "any_sync": _vote(lambda votes: any(votes.values())),
    "ballot_sync": _vote(lambda votes: sum(vote << lane for lane, vote in votes.items())),
    "mma_tf32": _mma,
}


class Launch:
    """A kernel on its way; see `run`."""

    def __init__(
        self,
        function: Callable[..., None],
        grid: tuple[int, int, int],
        threads: int,
        *,
        seed: int,
        delay: int,
        dynamic: int,
        round_to_tf32: bool,
    ) -> None:
        self.function = function
        self.arguments: list[Any] = []
        self.grid, self.threads = grid, threads
        self.random = random.Random(seed)
        self.dynamic = dynamic
        self.round_to_tf32 = round_to_tf32
        self.scheduler = getcurrent()
        self.time = self.switches = self.loads = self.stale = self.stores = self.progress = 0
        # How many rounds until others see a store: mostly few. As many as a prime, to be picked from by a hash.
        draw = self.random
        self.delays = [draw.randrange(4) if draw.random() < 0.8 else draw.randrange(delay + 1) for _ in range(1009)]
        self.longest_delay = max(self.delays)
        self.blocks = [Block(self, number) for number in range(grid[0] * grid[1] * grid[2])]

    def speed(self) -> float:
        return self.random.choice((1.0, 1.0, 1.0, 0.5, 0.2))

    def visible(self, message: Any, block: Block) -> bool:
        """Whether a store is seen in that block by now."""
        return message.time + self.delays[(message.number * 7919 + block.number * 104729) % 1009] <= self.time

    def go(self, patience: int) -> None:
        warps = [w for b in self.blocks for w in b.warps]
        chance = self.random.random
        seen, still = (0, 0), 0
        alive = sum(b.alive for b in self.blocks)
        while alive:
            self.time += 1
            self.random.shuffle(warps)
            hurry = still > self.longest_delay
            could = False
            for warp in warps:
                ready = warp.ready
                if not ready:
                    continue
                could = True
                if not hurry and chance() > warp.speed * (0.2 if warp.polls else 1.0):
                    continue
                warp.polls = False
                for _ in range(self.random.choice((1, 8))):
                    self._step(warp)
                    if warp.polls or not warp.ready:
                        break
            alive = sum(b.alive for b in self.blocks)
            if not could and alive:
                raise Deadlock(f"all threads wait: {self._standing()}")
            now = (self.stores, self.progress)
            still = still + 1 if now == seen else 0
            seen = now
            if still > patience + self.longest_delay:
                raise Deadlock(f"no thread has done anything for {still} rounds: {self._standing()}")

    def _step(self, warp: Warp) -> None:
        """All lanes that can, to the next place where they wait."""
        chance = self.random.random
        ready, warp.ready = warp.ready, []
        for thread in ready:
            if chance() < 0.02:
                warp.ready.append(thread)  # falls behind
                continue
            self.switches += 1
            thread.switch()
        warp.busy = 0 if warp.polls else warp.busy + 1
        if warp.busy > 40:  # loops that poll pause more often
            self.progress += 1
        if not warp.ready and warp.groups:
            self._split(warp)

    def _split(self, warp: Warp) -> None:
        """Lanes wait for others that will not come."""
        mask, group = next(iter(warp.groups.items()))
        arrival = next(iter(group.values()))
        missing = [lane for lane in range(LANES) if mask >> lane & 1 and lane not in group]
        elsewhere = {a.thread.lane: a for g in warp.groups.values() for a in g.values()}
        elsewhere |= {a.thread.lane: a for a in arrival.thread.block.arrivals if a.thread.warp is warp}
        stand = Counter(
            f"in {elsewhere[lane].operation} at {elsewhere[lane].site}" if lane in elsewhere else "gone"
            for lane in missing
        )
        raise Divergence(
            f"{arrival.operation} at {arrival.site} with mask {mask:#x} waits for lanes {missing} of warp "
            f"{warp.number} of block {arrival.thread.block.index}: {_listed(stand)}"
        )

    def _standing(self) -> str:
        """How many threads stand where."""
        stand: Counter[str] = Counter()
        for block in self.blocks:
            waiting = {a.thread: a for a in block.arrivals}
            waiting |= {a.thread: a for w in block.warps for g in w.groups.values() for a in g.values()}
            for arrival in waiting.values():
                stand[f"wait in {arrival.operation} at {arrival.site}"] += 1
            for warp in block.warps:
                for thread in warp.ready:
                    stand[f"poll at {where(thread.gr_frame)}" if thread.gr_frame else "have not begun"] += 1
        return _listed(stand)


def _listed(stand: Counter[str]) -> str:
    return "; ".join(f"{n} {what}" for what, n in stand.most_common())


def where(frame: FrameType | None) -> str:
    """The place in a kernel's source that `frame` belongs to."""
    while frame is not None and frame.f_code.co_filename in _OWN_FILES:
        frame = frame.f_back
    return str(Site(frame.f_code, frame.f_lasti)) if frame else "?"


def shared_array(size: int, width: int) -> Memory:
    """``cuda.shared.array``: one for each place in the source and block; those of size 0 are one and the same.

    `width`: bytes of an element.
    """
    thread = getcurrent()
    frame = sys._getframe(2)
    place = (frame.f_code, frame.f_lasti) if size else "dynamic"
    memory = thread.block.shared.get(place)
    if memory is None:
        size = size or thread.launch.dynamic // width
        memory = thread.block.shared[place] = Memory(
            f"shared({where(frame)})", [UNWRITTEN] * size, thread.launch, kind="any", shared=True
        )
    return memory
