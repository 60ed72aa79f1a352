"""Rounds in which the contenders take turns, each alone on the machine while it is measured."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import httpx

from httpbench import h2load, wrk
from httpbench.bodies import request, rows_of
from httpbench.contenders import BARE, Contender, Endpoint
from httpbench.found import Found
from httpbench.loads import BUSY, Load
from httpbench.servers import Failed, Running, running
from httpbench.verify import Verifier, answers
from httpbench.wrk import Sample

WARM_S = 1.0
MEGABYTES_OF_ROWS = 1024
CLIENTS = {"wrk": wrk.measured, "h2load": h2load.measured}
Say = Callable[[str], None]


class Rounds:
    """Measures contenders with `seconds` for each load."""

    def __init__(self, folder: Path, verifier: Verifier, seconds: float, say: Say) -> None:
        self.found = Found()
        self._folder = folder
        self._verifier = verifier
        self._seconds = seconds
        self._say = say

    def run(
        self, contenders: Sequence[Contender], bare: Callable[[], float] | None, rounds: int, until: float = math.inf
    ) -> int:
        """Every other round goes backwards, so that nobody always follows the same neighbour. How many were made:
        none is begun that would not end by `until`, a time of `time.monotonic`, if it took as long as the longest."""
        longest = 0.0
        for turn in range(rounds):
            started = time.monotonic()
            if started + longest > until:
                self._say(f"no time for another round: {turn} of {rounds} were made")
                return turn
            if bare is not None:
                self._say(f"round {turn + 1}/{rounds}: the bare container")
                self.found.add(BARE, BUSY, Sample(bare(), 0, 0, 0))
            for contender in contenders if turn % 2 == 0 else reversed(contenders):
                self._say(f"round {turn + 1}/{rounds}: {contender.name}")
                self._measure(contender)
            longest = max(longest, time.monotonic() - started)
        return rounds

    def _measure(self, contender: Contender) -> None:
        endpoints, started = contender.endpoints, time.monotonic()
        try:
            with running(contender.server, self._folder, lambda url: answers(url, endpoints)) as server:
                self._say(f"  up after {time.monotonic() - started:.0f} s")
                for endpoint in endpoints:
                    self._measure_endpoint(server, endpoint)
        except Failed as failure:
            self._failed(contender.name, failure)

    def _measure_endpoint(self, server: Running, endpoint: Endpoint) -> None:
        for rows, loads in _by_rows(endpoint.loads):
            try:
                self._verifier.check(server.url, endpoint, rows)
            except (Failed, httpx.HTTPError) as failure:
                self._failed(endpoint.name if rows == 1 else f"{endpoint.name}, {rows} rows", failure)
                continue
            self._sample(server, endpoint, loads[0], WARM_S)
            for load in loads:
                self.found.add(endpoint.name, load, self._sample(server, endpoint, load, self._seconds))
                server.check_alive()

    def _sample(self, server: Running, endpoint: Endpoint, load: Load, seconds: float) -> Sample:
        asked, url = request(endpoint.protocol, rows_of(load.rows)), endpoint.url(server.url)
        seconds *= _patience(load)
        return CLIENTS[endpoint.client](url, asked, self._folder, connections=load.connections, seconds=seconds)

    def _failed(self, name: str, why: object) -> None:
        self.found.failed(name, why)
        self._say(f"  {name}: {self.found.failures[name]}")


def _by_rows(loads: Iterable[Load]) -> list[tuple[int, list[Load]]]:
    grouped: dict[int, list[Load]] = defaultdict(list)
    for load in loads:
        grouped[load.rows].append(load)
    return sorted(grouped.items())


def _patience(load: Load) -> int:
    """A slow server answers few requests of megabytes in a second."""
    return 1 if load.rows < MEGABYTES_OF_ROWS else 2
