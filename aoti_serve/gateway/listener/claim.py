"""Which application of this user has a port: the kernel lets any two share it, an application must not.

In a private folder there is a file for each address that gateways listen on. Whoever listens holds it by a shared
flock, and the owner's name stands in it. The kernel lets go for one that has died, so a claim is never stale.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from aoti_serve.errors import StartFailed

# Binding takes microseconds; only one that was stopped right then makes others wait.
BINDING_S = 10.0
CLAIM_POLL_S = 0.01


class PortClaim:
    """A hold on one address, shared with others of the same owner. Ends with `release`, or with the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.first = self._lock(fcntl.LOCK_EX)

    def _lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def owner(self) -> str:
        """Whose it is, if it is not ours alone."""
        return os.pread(self._descriptor, 4096, 0).decode()

    def hold(self, owner: str) -> None:
        """Keep it, for this owner."""
        if self.first:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, owner.encode(), 0)
        self._lock(fcntl.LOCK_SH)

    def release(self) -> None:
        """Others may have it. Once more does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def is_alone(port: int) -> Iterator[Path]:
    """Nobody else of this user claims this port meanwhile; the folder of its claims. Blocks."""
    folder = claims_folder() / f"port-{port}"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        with FileLock(folder / "lock").acquire(BINDING_S, poll_interval=CLAIM_POLL_S):
            yield folder
    except Timeout:
        detail = f"another process has been about to listen on port {port} for {BINDING_S:.0f} s; end it"
        raise StartFailed(detail=detail) from None


def other_claims(folder: Path, address: str, owner: str) -> str | None:
    """Another owner that listens on this address, or on one that includes it, or that it includes."""
    for path in folder.glob("*.claim"):
        if addresses_overlap(path.stem, address):
            claim = PortClaim(path)
            other = None if claim.first else claim.owner
            claim.release()
            if other not in (None, owner):
                return other
    return None


def addresses_overlap(one: str, other: str) -> bool:
    """Whether what listens on the one address may get a connection to the other."""
    return one == other or any(ipaddress.ip_address(address).is_unspecified for address in (one, other))


def claims_folder() -> Path:
    """Where this user's processes on this machine look for each other's claims."""
    folder = Path(tempfile.gettempdir()) / f"aoti-serve-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StartFailed(detail=f"{folder} is not a private folder of this user; remove it")
    return folder
