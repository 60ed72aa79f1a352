"""What has been started is ended, also where psutil cannot wait for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psutil
import pytest

from aoti_serve.launcher.processes.process_tree import ProcessTree


@pytest.mark.parametrize("gone", [False, True], ids=["waits", "loses-a-race"])
def test_what_is_left_is_ended(gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def raced(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(2, "pidfd_open")  # of a process that is being reaped

    tree = ProcessTree()
    tree.update()
    if gone:
        monkeypatch.setattr(psutil, "wait_procs", raced)
    tree.end()
    child.wait(10)
    assert not psutil.pid_exists(child.pid)
