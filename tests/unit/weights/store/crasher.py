"""Ends itself with kill -9 before each call by which a store changes the disk, each time in another copy of it.

Its own program, since it forks: `python store_crasher.py FOLDER SCHEME`, where FOLDER/template is a store in which two
versions are committed. The copies are FOLDER/<call>; beside each, <call>.given lists the numbers that were given out.
With the scheme `pieces` versions have much in common, and lie in pieces in a folder; with `parts` in parts at a URI.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from aoti_serve.weights.labels import LabelChange
from aoti_serve.weights.store.store import Store
from tests.unit.weights.store import elsewhere

CHANGES = {
    "open",
    "write",
    "writelines",
    "truncate",
    "flush",
    "fsync",
    "close",
    "replace",
    "rename",
    "mkdir",
    "rmdir",
    "unlink",
    "remove",
    "flock",
}
COMPLETE = 0
PIECES, PARTS = "pieces", "parts"
COMMON_BYTES, OTHER_BYTES = 2**18, 2**21  # so that what is left of a version that goes is worth a copy


def content(value: int, scheme: str = "file") -> bytes:
    """A safetensors file of one tensor, or of two, one of which all have in common."""
    shared = {PIECES: {"common": COMMON_BYTES, "w": OTHER_BYTES}, PARTS: {"common": OTHER_BYTES, "w": COMMON_BYTES}}
    sizes = shared.get(scheme, {"w": 8})
    begins = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    tensors = {
        name: {"dtype": "U8", "shape": [size], "data_offsets": [begins[name], begins[name] + size]}
        for name, size in sizes.items()
    }
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    body = b"".join(bytes([7 if name == "common" else value]) * size for name, size in sizes.items())
    return len(header).to_bytes(8, "little") + header + body


def place(folder: Path, scheme: str) -> str:
    return elsewhere.uri_of(folder) if scheme in (elsewhere.SCHEME, PARTS) else str(folder)


def scenario(folder: Path, scheme: str) -> None:
    """Everything that a coordinator does with a store."""
    store = Store(place(folder, scheme), "m", 2)
    given = folder.with_suffix(".given").open("a", buffering=1)
    committed = store.committed()
    assert committed is not None
    aborted = store.add(folder.parent / "file", "copied")
    given.write(f"{aborted.number}\n")
    store.remove(aborted)
    upload = store.incoming()
    upload.write_bytes(content(5, scheme))
    version = store.add(upload, "uploaded")
    given.write(f"{version.number}\n")
    store.relabel(LabelChange(name="stable", version=committed.version.number))
    store.commit(version, committed.epoch + 1, committed.version)
    store.relabel(LabelChange(name="stable", version=version.number))


def commit_two(store: Store, folder: Path, label: str) -> Store:
    """Commit versions 1 and 2, each from a file in `folder`: 2 answers, 1 is the way back."""
    before = None
    for number in (1, 2):
        (folder / "file").write_bytes(content(number))
        version = store.add(folder / "file", f"{label}{number}")
        store.commit(version, number, before)
        before = version
    return store


def half_copied(source: str | Path, target: str | Path) -> str | Path:
    """A copy that can be ended in the middle: Python's own is a single call."""
    data = Path(source).read_bytes()
    with open(target, "wb", buffering=0) as file:
        file.write(data[:20])
        file.write(data[20:])
    return target


def ended_at(call: int, folder: Path, scheme: str) -> bool:
    """Run the scenario in a child that ends itself there; whether it came to it."""
    child = os.fork()
    if not child:
        left = itertools.count(call, -1)

        def profile(_: FrameType, event: str, function: Any) -> None:
            if event == "c_call" and function.__name__ in CHANGES and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        shutil.copyfile = half_copied  # type: ignore[assignment]
        threading.setprofile(profile)  # several puts are made at once
        sys.setprofile(profile)
        scenario(folder, scheme)
        sys.setprofile(None)
        os._exit(COMPLETE)
    _, status = os.waitpid(child, 0)
    assert status in (COMPLETE, signal.SIGKILL), f"call {call} ended with {status}"
    return status == signal.SIGKILL


def main() -> None:
    folder, scheme = Path(sys.argv[1]), sys.argv[2]
    shutil.copytree(folder / "template", folder / "warm")
    scenario(folder / "warm", scheme)  # what it imports, it need not import again in every child
    for call in itertools.count():
        copy = folder / str(call)
        shutil.copytree(folder / "template", copy)
        if not ended_at(call, copy, scheme):
            break
    print(call)


if __name__ == "__main__":
    main()
