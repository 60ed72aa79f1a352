"""Claims on ports: the kernel lets any two processes of a user share a port, but only one application may have it.

A private folder holds a file for each address on which gateways listen. Each listener holds a shared flock on it, and
the file names the owner. The kernel drops the lock of a process that dies, so a claim is never stale.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from aoti_serve.errors import StartFailed
from aoti_serve.folders import make_private

BINDING_S = 10.0  # it takes microseconds; only a process that was suspended in it makes others wait
CLAIM_POLL_S = 0.01


class PortClaim:
    """A claim on one address, shared with listeners of the same owner. Ends with `release`, or with the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.first = False
        with suppress(BlockingIOError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.first = True

    @property
    def owner(self) -> str:
        """The name of the owner, as it stands in the file."""
        return os.pread(self._descriptor, 4096, 0).decode()

    def hold(self, owner: str) -> None:
        """Keep the claim, in the name of `owner` if no other process holds it."""
        if self.first:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, owner.encode(), 0)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def release(self) -> None:
        """Give up the claim. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def is_alone(port: int) -> Iterator[Path]:
    """Keep other processes of this user from claiming this port during the block. Yields the claims' folder. Blocks."""
    folder = claims_folder() / f"port-{port}"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        with FileLock(folder / "lock").acquire(BINDING_S, poll_interval=CLAIM_POLL_S):
            yield folder
    except Timeout:
        detail = f"another process has been about to listen on port {port} for {BINDING_S:.0f} s; end it"
        raise StartFailed(detail=detail) from None


def other_claims(folder: Path, address: str, owner: str) -> str | None:
    """The other owner that listens on this address, or on one that overlaps with it; None if there is none."""
    for path in folder.glob("*.claim"):
        if addresses_overlap(path.stem, address):
            claim = PortClaim(path)
            other = None if claim.first else claim.owner
            claim.release()
            if other not in (None, owner):
                return other
    return None


def addresses_overlap(one: str, other: str) -> bool:
    """True if a connection to one address could reach a listener on the other."""
    return one == other or any(ipaddress.ip_address(address).is_unspecified for address in (one, other))


def claims_folder() -> Path:
    """The folder in which the processes of this user on this machine keep their claims."""
    folder = Path(tempfile.gettempdir()) / f"aoti-serve-{os.getuid()}"
    if not make_private(folder):
        raise StartFailed(detail=f"{folder} is not a private folder of this user; remove it")
    return folder
