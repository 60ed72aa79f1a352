"""The memory and the descriptors of every process of a cluster, over time, and how steeply they grow."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import psutil
from scipy.stats import theilslopes

from chaoslab.model import NAME
from chaoslab.nodes import Nodes, title_of

MB = 2**20
ENOUGH = 5  # samples, for a slope
# What a process's name or title holds, and what it is; the first that fits.
ROLES = {
    "gcs_server": "the GCS",
    "raylet": "raylet",
    f"{NAME}-replica": "replica",
    f"{NAME}-coordinator": "coordinator",
    ":gateway": "gateway",
    "TransferActor": "transfer actor",
    "ServeController": "Serve's controller",
    "DashboardAgent": "Ray's dashboard agent",
    "dashboard/agent.py": "Ray's dashboard agent",
    "RuntimeEnvAgent": "Ray's runtime environment agent",
    "runtime_env/agent": "Ray's runtime environment agent",
    "dashboard.py": "Ray's dashboard",
    "log_monitor": "Ray's log monitor",
    "monitor.py": "Ray's autoscaler monitor",
    "ray.util.client.server": "Ray's client server",
    "ray::IDLE": "idle worker",
    "ray start": "`ray start`",
}


class Sample(NamedTuple):
    """A process at a moment: `minute` since the start, PSS in MB, open descriptors."""

    minute: float
    memory: float
    descriptors: int


@dataclass(frozen=True)
class Growth:
    """A straight line through the second half (Theil and Sen): by hour, with the 95 % interval of the slope."""

    first: float
    last: float
    slope: float
    low: float
    high: float


@dataclass(frozen=True)
class Lived:
    """A process that lived through the second half. Memory in MB, slopes by hour."""

    role: str
    pid: int
    memory: Growth
    descriptors: Growth


class Processes:
    """Looks at every process now and then; `sample` does once."""

    def __init__(self, nodes: Nodes) -> None:
        self.seen: defaultdict[tuple[str, int], list[Sample]] = defaultdict(list)
        self._nodes = nodes
        self._began = time.monotonic()

    def insist(self, stop: threading.Event, every_s: float) -> None:
        while not stop.wait(every_s):
            self.sample()

    def sample(self) -> None:
        minute = (time.monotonic() - self._began) / 60
        for process in self._nodes.processes():
            with suppress(psutil.Error):
                found = Sample(minute, process.memory_full_info().pss / MB, process.num_fds())
                self.seen[role_of(process), process.pid].append(found)

    def lived(self) -> list[Lived]:
        """Those that were there from half-time to the end, the steepest first."""
        end = max((samples[-1].minute for samples in self.seen.values()), default=0.0)
        found = []
        for (role, pid), samples in self.seen.items():
            late = [sample for sample in samples if sample.minute >= end / 2]
            if samples[-1].minute >= end * 0.95 and late[0].minute <= end * 0.55 and len(late) >= ENOUGH:
                minutes = [sample.minute for sample in late]
                memory = grown(minutes, [sample.memory for sample in late])
                found.append(Lived(role, pid, memory, grown(minutes, [float(each.descriptors) for each in late])))
        return sorted(found, key=lambda each: -each.memory.slope)

    def series(self) -> dict[str, list[Sample]]:
        """By role, what was seen of the process that lived longest."""
        longest: dict[str, list[Sample]] = {}
        for (role, _), samples in self.seen.items():
            if len(samples) > len(longest.get(role, ())):
                longest[role] = samples
        return longest


def grown(minutes: list[float], values: list[float]) -> Growth:
    hours = [minute / 60 for minute in minutes]
    slope, _, low, high = theilslopes(values, hours)
    return Growth(values[0], values[-1], float(slope), float(low), float(high))


def role_of(process: psutil.Process) -> str:
    """Raises psutil.Error if it has ended."""
    name, title = process.name(), title_of(process)
    if name in ROLES:
        return ROLES[name]
    return next((role for part, role in ROLES.items() if part in title), name)
