"""Watching a running server, and reporting to its operator what happens to it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from aoti_serve.launcher.cluster.applications import instance_details
from aoti_serve.launcher.news import ServerView, changes_between, view_of
from aoti_serve.launcher.processes.background import BackgroundTask
from aoti_serve.launcher.progress import ProgressLog

SILENT_LOOKS = 3  # looks without an answer, before that is reported


class ServerMonitor:
    """Looks at a server again and again, and reports each change.

    Serve is asked in a thread, since a failing cluster may answer after minutes or never. `first` is the view of the
    server when it became ready; differences from it are reported.
    """

    def __init__(
        self,
        names: Collection[str],
        voice: ProgressLog,
        ask: Callable[[], ServerView] | None = None,
        first: ServerView | None = None,
    ) -> None:
        self._voice = voice
        self._ask = ask or partial(view_now, names)
        self._view = first
        self._look: BackgroundTask | None = None
        self._answer: ServerView | None = None
        self._silent = 0

    def look(self) -> bool:
        """Process the last answer and ask again. Returns true while at least one of the applications exists."""
        if self._look is None or self._look.done:
            self._take_in()
            self._look = BackgroundTask(self._inquire)
        else:
            self._note_silence("it does not answer")
        return self._view is None or bool(self._view.states)

    def _take_in(self) -> None:
        if self._look is None:
            return
        try:
            self._look.result()
        except Exception as error:  # any error of Ray: the cluster is failing
            self._note_silence(f"{type(error).__name__}: {error}".splitlines()[0])
            return
        if self._silent >= SILENT_LOOKS:
            self._voice.say("Serve answers again")
        self._silent = 0
        if self._answer is not None:
            for text in changes_between(self._view, self._answer) if self._view else ():
                self._voice.say(text)
            self._view = self._answer

    def _note_silence(self, why: str) -> None:
        self._silent += 1
        if self._silent == SILENT_LOOKS:
            self._voice.say(f"Serve cannot be asked how the server is: {why}")

    def _inquire(self) -> None:
        self._answer = self._ask()


def view_now(names: Collection[str]) -> ServerView:
    """The present view of these applications, as Serve reports it."""
    return view_of(instance_details(), names)
