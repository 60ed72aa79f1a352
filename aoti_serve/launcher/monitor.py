"""Watching a running server, and reporting to its operator what happens to it."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future

from aoti_serve.launcher import ProgressLog
from aoti_serve.launcher.cluster.applications import instance_details
from aoti_serve.launcher.news import ServerView, changes_between, view_of
from aoti_serve.launcher.processes.background import in_background

SILENT_LOOKS = 3  # looks without an answer, before that is reported


class ServerMonitor:
    """Looks at a server again and again, and reports each change.

    Serve is asked in a thread, since a failing cluster may answer after minutes or never. `first` is the view of the
    server when it became ready; differences from it are reported.
    """

    def __init__(self, names: Collection[str], log: ProgressLog, first: ServerView) -> None:
        self._names = names
        self._log = log
        self._view = first
        self._asked: Future[ServerView] | None = None
        self._silent = 0

    def look(self) -> bool:
        """Process the last answer and ask again. Returns true while at least one of the applications exists."""
        if self._asked is not None and not self._asked.done():
            self._note_silence("it does not answer")
            return bool(self._view.states)
        if self._asked is not None:
            self._take_in(self._asked)
        self._asked = in_background(lambda: view_now(self._names))
        return bool(self._view.states)

    def _take_in(self, answer: Future[ServerView]) -> None:
        if error := answer.exception():  # any error of Ray: the cluster is failing
            self._note_silence(f"{type(error).__name__}: {error}".splitlines()[0])
            return
        if self._silent >= SILENT_LOOKS:
            self._log.say("Serve answers again")
        self._silent = 0
        for text in changes_between(self._view, answer.result()):
            self._log.say(text)
        self._view = answer.result()

    def _note_silence(self, why: str) -> None:
        self._silent += 1
        if self._silent == SILENT_LOOKS:
            self._log.say(f"Serve cannot be asked how the server is: {why}")


def view_now(names: Collection[str]) -> ServerView:
    """The present view of these applications, as Serve reports it."""
    return view_of(instance_details(), names)
