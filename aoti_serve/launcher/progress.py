"""Where the launcher says what goes on."""

from __future__ import annotations

from typing import Protocol


class ProgressLog(Protocol):
    """The user's terminal, or a log."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def progress(self, text: str) -> None:
        """What is being done now; replaces what was said so before."""
