"""A plugin of coverage that saves what a process has run every few seconds: Ray ends its workers without any notice.

coverage imports it in each process that it measures. A file that is being written at the end of its process is lost.
"""

from __future__ import annotations

import threading
from typing import Any

import coverage

PERIOD_S = 2.0


def coverage_init(_registry: Any, _options: Any) -> None:
    threading.Thread(target=_save_often, name="coverage-saver", daemon=True).start()


def _save_often() -> None:
    never = threading.Event()
    while not never.wait(PERIOD_S):
        if measured := coverage.Coverage.current():
            measured.save()
