"""Looking after a server, with answers that come, fail, and do not come."""

from __future__ import annotations

import threading
from collections.abc import Callable

from aoti_serve.launcher.monitor import SILENT_LOOKS, ServerMonitor
from aoti_serve.launcher.news import DeploymentReplicas, ServerView

WELL = ServerView({"default": ("RUNNING", "")}, {("default", "gateway"): DeploymentReplicas(1, frozenset("a"))})
ILL = ServerView({"default": ("UNHEALTHY", "")}, {("default", "gateway"): DeploymentReplicas(1, frozenset())})
GONE = ServerView({}, {})


class Said(list[str]):
    """A `Voice` that remembers."""

    def say(self, text: str) -> None:
        self.append(text)

    def progress(self, text: str) -> None:
        pass


def looks(said: Said, *answers: Callable[[], ServerView]) -> list[bool]:
    """What each look says, each after the answer to the one before has come."""
    given = list(answers)

    def ask() -> ServerView:
        return given.pop(0)()

    watch = ServerMonitor(["default"], said, ask)
    found = []
    for _ in answers:
        found.append(watch.look())
        assert watch._look is not None
        assert watch._look.wait(30)
    return found


def test_what_happens_is_told() -> None:
    said = Said()
    assert all(looks(said, lambda: WELL, lambda: ILL, lambda: WELL, lambda: WELL))
    assert said == [
        "gateway: a is gone; 0 of 1 run",
        "application 'default' is UNHEALTHY",
        "gateway: 1 of 1 run again",
        "application 'default' runs again",
    ]


def test_it_is_over_when_the_applications_are_gone() -> None:
    assert looks(Said(), lambda: WELL, lambda: GONE, lambda: GONE) == [True, True, False]


def test_a_serve_that_cannot_be_asked_is_told_once_and_so_is_its_return() -> None:
    def fails() -> ServerView:
        raise ConnectionError("no head\nand more")

    said = Said()
    looks(said, lambda: WELL, *[fails] * (SILENT_LOOKS + 2), lambda: WELL, lambda: WELL)
    assert said == ["Serve cannot be asked how the server is: ConnectionError: no head", "Serve answers again"]


def test_a_serve_that_does_not_answer_is_told() -> None:
    never, said = threading.Event(), Said()

    def hangs() -> ServerView:
        never.wait()
        return WELL

    watch = ServerMonitor(["default"], said, hangs)
    for _ in range(SILENT_LOOKS + 1):
        assert watch.look()
    assert said == ["Serve cannot be asked how the server is: it does not answer"]
    never.set()
