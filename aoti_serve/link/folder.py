"""The private folder of a replica's socket; and those that are left of replicas that were killed."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from pathlib import Path

PREFIX, SOCKET = "aoti-link-", "link"
STARTING_S = 60.0  # between its socket's file and its first connection a replica looks like a dead one


def socket_folder() -> Path:
    """A new folder that only this user may enter. Those of this user in which nobody listens any more are removed."""
    made = Path(tempfile.mkdtemp(prefix=PREFIX))
    for folder in made.parent.glob(f"{PREFIX}*"):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
    return made


def _abandoned(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            started = folder.stat().st_mtime
            probe.connect(str(folder / SOCKET))
        except ConnectionRefusedError:
            return time.time() - started > STARTING_S
        except OSError:  # another user's, or gone, or of a replica that is stopped
            return False
    return False
