"""Looking after a server that is up, and telling its operator what happens to it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from aoti_serve.launcher.cluster.applications import instance_details
from aoti_serve.launcher.news import View, news, view_of
from aoti_serve.launcher.processes.work import Work
from aoti_serve.launcher.voice import Voice

PATIENCE = 3  # looks without an answer, before it is said


class Watch:
    """Serve is asked in a thread: a cluster that breaks down may answer minutes later, or never.

    `first` is how the server was when it was ready: what has happened since is news.
    """

    def __init__(
        self, names: Collection[str], voice: Voice, ask: Callable[[], View] | None = None, first: View | None = None
    ) -> None:
        self._voice = voice
        self._ask = ask or partial(seen, names)
        self._view = first
        self._look: Work | None = None
        self._answer: View | None = None
        self._silent = 0

    def look(self) -> bool:
        """Take in what came since the last look, and ask again; whether any of the applications is still there."""
        if self._look is None or self._look.done:
            self._take_in()
            self._look = Work(self._inquire)
        else:
            self._note_silence("it does not answer")
        return self._view is None or bool(self._view.states)

    def _take_in(self) -> None:
        if self._look is None:
            return
        try:
            self._look.result()
        except Exception as error:  # whatever Ray says of a cluster that is breaking down
            self._note_silence(f"{type(error).__name__}: {error}".splitlines()[0])
            return
        if self._silent >= PATIENCE:
            self._voice.say("Serve answers again")
        self._silent = 0
        if self._answer is not None:
            for text in news(self._view, self._answer) if self._view else ():
                self._voice.say(text)
            self._view = self._answer

    def _note_silence(self, why: str) -> None:
        self._silent += 1
        if self._silent == PATIENCE:
            self._voice.say(f"Serve cannot be asked how the server is: {why}")

    def _inquire(self) -> None:
        self._answer = self._ask()


def seen(names: Collection[str]) -> View:
    """How Serve says that these applications are."""
    return view_of(instance_details(), names)
