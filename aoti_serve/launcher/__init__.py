"""The work of `up` and `down`: join or start Ray, deploy, wait, watch, drain, and leave nothing behind."""

from __future__ import annotations

from typing import Protocol


class ProgressLog(Protocol):
    """The interface through which progress is reported: to the user's terminal, or to a log."""

    def say(self, text: str) -> None:
        """Print a line that stays."""

    def progress(self, text: str) -> None:
        """Show what is being done now, in place of the last such text."""
