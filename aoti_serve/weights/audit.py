"""The audit log: a line of JSON for every attempt to change weights."""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

logger = logging.getLogger("aoti_serve.audit")
MAX_FILE_BYTES = 8 * 2**20
OLD_FILES = 4  # audit.jsonl.1 is the newest of them
MAX_TEXT = 4096


class AttemptOutcome(StrEnum):
    """What has come of an attempt to change weights. It has ended unless it has only BEGUN.

    REFUSED: it was not begun. UNCHANGED: the same bytes answered already. CANDIDATE: one is out; EXPOSED, to other
    shares; WITHDRAWN. IMPORTED: into a store, by the command line. UNKNOWN: the store does not say whether it is
    committed, so that the coordinator ends.
    """

    BEGUN = "begun"
    REFUSED = "refused"
    COMMITTED = "committed"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    CANDIDATE = "candidate"
    EXPOSED = "exposed"
    WITHDRAWN = "withdrawn"
    IMPORTED = "imported"
    UNKNOWN = "unknown"


class AuditLog:
    """Lines go to `path`, fsynced, or to the logger `aoti_serve.audit` if there is none, or it cannot be written.

    No failure here may stop the attempt that it records.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writable = True
        self._lock = threading.Lock()

    def write(self, **facts: object) -> None:
        """Record an attempt; the time is added. In whichever thread."""
        shortened = {name: fact[:MAX_TEXT] if isinstance(fact, str) else fact for name, fact in facts.items()}
        # Escapes every control character, so that no fact can begin a line of its own.
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | shortened, default=str)
        with self._lock:
            if self._path is None or not self._written(self._path, line):
                # Loud enough to be seen where nobody has configured logging.
                logger.warning(line)

    def _written(self, path: Path, line: str) -> bool:
        try:
            self._rotate(path)
            _append(path, line.encode() + b"\n")
        except OSError as error:
            if self._writable:
                logger.warning("the audit log %s cannot be written (%s); its lines follow here", path, error)
            self._writable = False
        else:
            self._writable = True
        return self._writable

    def _rotate(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size < MAX_FILE_BYTES:
            return
        names = [path, *(path.with_name(f"{path.name}.{age}") for age in range(1, OLD_FILES + 1))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)


def _append(path: Path, line: bytes) -> None:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # the last one broke off, with the disk or the process
        if os.write(descriptor, line) < len(line):
            raise OSError("the disk is full")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
