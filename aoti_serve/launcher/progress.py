"""The interface through which the launcher reports its progress."""

from __future__ import annotations

from typing import Protocol


class ProgressLog(Protocol):
    """The user's terminal, or a log."""

    def say(self, text: str) -> None:
        """Print a line that stays."""

    def progress(self, text: str) -> None:
        """Show what is being done now, in place of the last such text."""
