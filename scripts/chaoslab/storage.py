"""What cannot be read, written or kept: bad files, a full disk, a full object store, no memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from aoti_serve.weights.store.layout import HOMES
from chaoslab.changes import Lost
from chaoslab.face import Status
from chaoslab.kills import one
from chaoslab.lab import Lab
from chaoslab.moments import STAGING, struck_in

STILL_AT_HAND_S = (
    7.0  # for so long a version's bytes may be in a buffer or in the object store, whole; its file is not read
)


def bad_files(lab: Lab) -> None:
    """Truncated, with another digest than promised, not safetensors at all; each is refused, and nothing changes."""
    good = lab.telltales.weights(lab.fresh())
    lab.strike(lambda: None)
    for content, params in bad_contents(good):
        refused(lab, content, **params)


def bad_contents(good: bytes) -> list[tuple[bytes, dict[str, str]]]:
    """What cannot be swapped in, each with its options."""
    return [
        (good[:-100], {}),
        (good[: len(good) // 2], {}),
        (good, {"sha256": "0" * 64}),
        (b"not a safetensors file", {}),
        (good + b"more", {}),
    ]


def damaged_version(lab: Lab) -> None:
    """A stored version whose file has rotted cannot be rolled back to."""
    first = lab.face.status()["current"]["number"]
    deadline = time.monotonic() + STILL_AT_HAND_S
    while time.monotonic() < deadline:
        lab.swap()
    rot(lab, first)
    lab.strike(lambda: None)
    if lab.ended(lambda: lab.face.rollback(version=first), None) != "refused":
        raise Lost(f"rolled back to a damaged file: {lab.face.status()['current']}")


def rot(lab: Lab, number: int) -> None:
    """Change one byte of a stored version's file, or of what it does not share."""
    folder = lab.folder / "versions" / "versions" / str(number)
    path = next(folder / name for name in HOMES if (folder / name).exists())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def full_disk(lab: Lab) -> None:
    """Not more than half of a file can be written; then it can again."""
    content = lab.telltales.weights(lab.fresh())
    with limited(one(lab, "transfer"), psutil.RLIMIT_FSIZE, len(content) // 2):
        lab.strike(lambda: None)
        refused(lab, content)


def full_disk_at_the_commit(lab: Lab) -> None:
    """Everybody has staged, and the coordinator cannot write down that it is committed: nothing has changed then."""
    before, pid = lab.face.status(), one(lab, "coordinator")
    process = psutil.Process(pid)
    soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
    try:
        outcome = struck_in(lab, STAGING, lambda: process.rlimit(psutil.RLIMIT_FSIZE, (1, hard)))
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))
    if outcome != "refused":
        raise Lost(f"the commit could not be written, and the swap ended so: {outcome}, {lab.notes[-1:]}")
    unchanged(lab, before)


def starved_replica(lab: Lab) -> None:
    """One replica gets no more memory, the others do: all or nothing. It may die of it."""
    pid = lab.rng.choice(lab.replica_pids())
    with limited(pid, psutil.RLIMIT_AS, psutil.Process(pid).memory_info().vms // 2):
        lab.strike(lambda: None)
        lab.swap()


def full_object_store(lab: Lab) -> None:
    """Pinned objects take all of it, on every node."""
    with full_of_objects(lab):
        lab.strike(lambda: None)
        for _ in range(5):
            lab.swap()
        lab.settle()


@contextmanager
def full_of_objects(lab: Lab) -> Iterator[None]:
    """The object store of every node, inside."""
    hog = lab.nodes.driver("hog")
    assert hog.stdout is not None
    assert hog.stdin is not None
    said = hog.stdout.readline().decode()
    if not said.startswith("full"):
        raise Lost(said + hog.stdout.read().decode())
    lab.notes.append(said.strip())
    try:
        yield
    finally:
        hog.send_signal(signal.SIGKILL)
        hog.communicate()


def refused(lab: Lab, content: bytes, **params: str) -> None:
    """Such a swap ends with an error in our words, and changes nothing."""
    before = lab.face.status()
    outcome = lab.ended(lambda: lab.face.swap(content, "1000000", **params), None)
    if outcome != "refused" or "ray::" in lab.notes[-1]:
        raise Lost(f"this should have been refused, and not in Ray's words: {outcome}, {lab.notes[-1:]}")
    unchanged(lab, before)


def unchanged(lab: Lab, before: Status) -> None:
    after = lab.quiet()
    if (after["current"], after["epoch"]) != (before["current"], before["epoch"]):
        raise Lost(f"{before['current']} became {after['current']}")


@contextmanager
def limited(pid: int, limit: int, value: int) -> Iterator[None]:
    """With a lower soft limit inside, as `prlimit` would set it."""
    process = psutil.Process(pid)
    soft, hard = process.rlimit(limit)
    process.rlimit(limit, (value, hard))
    try:
        yield
    finally:
        if process.is_running():
            process.rlimit(limit, (soft, hard))
