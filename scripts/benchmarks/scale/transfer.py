"""How a transfer of weights scales: 10 to 10,000 nodes read one file of 64 chunks, in simulated time, without Ray.

The rules are the product's own ChunkWindow, with the numbers of the TransferActor. What is simulated is the cluster: a
hundredth of the nodes are slow, a few are stopped for a while, and one is lost halfway. A node that has a chunk sends
it on: a chunk takes as long as its sender needs for all that fetch from it at the same time.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import Counter
from dataclasses import dataclass

from aoti_serve.cluster.transfer.actor import FAN_OUT, NODE_PATIENCE_S, NODE_WINDOW
from aoti_serve.cluster.transfer.window import ChunkWindow, Grant

NODES = (10, 100, 1_000, 10_000)
CHUNKS = 64
COPY_S = 0.02  # a chunk of 64 MB at 25 Gb/s
ANSWER_S = 0.002  # a call to the root
SLOWER = 10.0  # a slow node, in comparison
STOPPED_S = 20.0


@dataclass(frozen=True)
class TransferRun:
    """One transfer.

    `microseconds` of CPU time that the rules took, and `calls` at the root, are per node and chunk. `put` is how many
    chunks were read from the file, `CHUNKS` at best; `kept` how many were kept at a time at most. After `most`
    simulated seconds nine nodes of ten had the whole file, after `finished` the last one had it.
    """

    nodes: int
    microseconds: float
    calls: float
    put: int
    left_behind: int
    kept: int
    most: float
    finished: float


class TransferSimulation:
    """`fan_out` as in ChunkWindow."""

    def __init__(self, nodes: int, fan_out: float = FAN_OUT, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        self._window = ChunkWindow(CHUNKS, width=NODE_WINDOW, patience=NODE_PATIENCE_S, fan_out=fan_out)
        names = [f"node-{number}" for number in range(nodes)]
        slow, stopped = max(1, nodes // 100), max(1, nodes // 1000)
        self._slow = set(names[:slow])
        self._stops = dict.fromkeys(names[slow : slow + stopped], CHUNKS // 4)
        self._lost = names[-1]
        self._names = names
        self._events: list[tuple[float, int, str, int]] = []
        self._count = 0
        self._now = self._seconds = 0.0
        self._copies: Counter[int] = Counter()
        self._fetching: Counter[int] = Counter()
        self._kept: set[int] = set()
        self._put = self._calls = self._left = self._most_kept = 0
        self._ended: list[float] = []

    def run(self) -> TransferRun:
        for name in self._names:
            self._later(self._chance.uniform(0, 0.1), name, 0)
        while self._step():
            pass
        nodes, cost = len(self._names), len(self._names) * CHUNKS
        assert len(self._ended) == nodes - 1, "all nodes but the lost one have the whole file"
        return TransferRun(
            nodes=nodes,
            microseconds=round(self._seconds / cost * 1e6, 2),
            calls=round(self._calls / cost, 3),
            put=self._put,
            left_behind=self._left,
            kept=self._most_kept,
            most=round(self._ended[int(nodes * 0.9) - 1], 2),
            finished=round(self._ended[-1], 2),
        )

    def _step(self) -> bool:
        """The next event, if there is one: a node asks, or one is overdue."""
        deadline = self._window.deadline()
        if deadline is not None and (not self._events or deadline <= self._events[0][0]):
            self._now = max(self._now, deadline)
            self._leave_overdue()
            return True
        if not self._events:
            return False
        self._now, _, name, number = heapq.heappop(self._events)
        self._ask(name, number)
        return True

    def _ask(self, name: str, number: int) -> None:
        self._calls += 1
        if number:
            self._fetching[number - 1] -= 1
            self._copies[number - 1] += 1
        if number == CHUNKS:
            self._ended.append(self._now)
        started = time.thread_time()
        grants = self._window.ask(name, number, self._now)
        self._seconds += time.thread_time() - started
        self._hand(grants)

    def _leave_overdue(self) -> None:
        started = time.thread_time()
        late = self._window.overdue(self._now)
        grants = self._window.leave(late) if late else []
        self._seconds += time.thread_time() - started
        self._left += late is not None
        self._hand(grants)

    def _hand(self, grants: list[Grant]) -> None:
        for name, number in grants:
            if number not in self._kept:
                self._kept.add(number)
                self._put += 1
                self._copies[number] = 1
            self._fetching[number] += 1
            started = time.thread_time()
            self._window.hand(name, number, self._now)
            self._seconds += time.thread_time() - started
            if name == self._lost and number == CHUNKS // 2:
                continue
            self._later(self._copy_seconds(name, number), name, number + 1)
        self._kept = {number for number in self._kept if self._window.keeps(number)}
        self._most_kept = max(self._most_kept, len(self._kept))

    def _copy_seconds(self, name: str, number: int) -> float:
        """The senders of a chunk share its receivers evenly."""
        sharing = math.ceil(self._fetching[number] / self._copies[number])
        seconds = ANSWER_S + COPY_S * sharing * self._chance.uniform(1.0, 1.2)
        if self._stops.get(name) == number:
            return seconds + STOPPED_S
        return seconds * SLOWER if name in self._slow else seconds

    def _later(self, seconds: float, name: str, number: int) -> None:
        self._count += 1
        heapq.heappush(self._events, (self._now + seconds, self._count, name, number))


def measure_transfer() -> list[TransferRun]:
    """One run for each number of nodes."""
    return [TransferSimulation(nodes).run() for nodes in NODES]
