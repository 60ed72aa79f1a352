"""The progress of `up` and `down`: a line that is replaced on a terminal, one line per change in a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.status import Status

from aoti_serve.cli.console import progress_out


class Terminal:
    """A `ProgressLog` on standard error."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def say(self, text: str) -> None:
        progress_out.print(text)

    def progress(self, text: str) -> None:
        if not progress_out.is_terminal and text != self._status.status:
            progress_out.print(text)
        self._status.update(text)
        self._status.start()

    def rest(self) -> None:
        """Remove the progress line: nothing is in progress any more."""
        self._status.stop()


@contextmanager
def terminal() -> Iterator[Terminal]:
    status = progress_out.status("")
    try:
        yield Terminal(status)
    finally:
        status.stop()
