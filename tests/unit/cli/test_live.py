"""Following the events: bars on a terminal, nothing elsewhere, and no harm when the stream breaks."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from aoti_serve.cli import live as following
from aoti_serve.cli.client import AdminClient
from aoti_serve.cli.live import ProgressBars, Screen, StatusEvent, follow
from aoti_serve.launcher.processes.background import in_background
from aoti_serve.token import TOKEN_VARIABLE
from tests.unit.cli.played import (
    Break,
    Played,
    Reply,
    as_json,
    candidate,
    playing,
    swap_progress,
    version,
    weights_status,
)

EVENTS = "/v2/models/m/weights/events"
CALM = as_json(weights_status())
STAGING = as_json(weights_status(swap=swap_progress("staging", ("r-one", 40, True), ("r-two", 10, False))))
COMMITTING = as_json(weights_status(swap=swap_progress("committing", ("r-one", 40, True), ("r-two", 40, True))))


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    monkeypatch.setattr(following, "WATCH_RETRY_S", 0.01)


@pytest.fixture
def played() -> Iterator[Played]:
    with playing() as server:
        yield server


@pytest.fixture
def client(played: Played) -> AdminClient:
    return AdminClient(played.url, "m")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 100 columns in the place of standard error and standard output."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, soft_wrap=True, markup=False, color_system=None)
    monkeypatch.setattr(following, "progress_out", console)
    monkeypatch.setattr(following, "out", console)
    return written


def soon(true: Callable[[], object]) -> None:
    """Wait until it is true, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_follower_hands_on_every_status(client: AdminClient, played: Played) -> None:
    played.streams.append([CALM, STAGING])
    heard: list[StatusEvent] = []
    stopped = threading.Event()
    in_background(lambda: follow(client, heard.append, stopped))
    soon(lambda: len(heard) == 3)
    stopped.set()
    assert [news.answer for news in heard[:2]] == [CALM, STAGING]
    assert heard[1].status is not None
    assert heard[1].status.swap == swap_progress("staging", ("r-one", 40, True), ("r-two", 10, False))
    assert heard[2].trouble == "the server has ended the events"


def test_a_follower_asks_again_whatever_goes_wrong(client: AdminClient, played: Played) -> None:
    played.streams += [[Break(b"data: {")], ["nonsense"], [{"not": "a status"}], [], [CALM]]
    heard: list[StatusEvent] = []
    stopped = threading.Event()
    in_background(lambda: follow(client, heard.append, stopped))
    soon(lambda: any(news.status for news in heard))
    stopped.set()
    troubles = [news.trouble or "" for news in heard[:4]]
    for trouble, says in zip(troubles, ("broke off", "something else", "otherwise", "ended"), strict=True):
        assert says in trouble


def test_a_follower_that_was_stopped_hands_on_nothing(client: AdminClient, played: Played) -> None:
    played.streams += [[CALM]] * 3
    heard: list[StatusEvent] = []

    def stop(news: StatusEvent) -> None:
        heard.append(news)
        stopped.set()

    stopped = threading.Event()
    follow(client, stop, stopped)
    assert len(heard) == len(played.asked) == 1


def test_the_bars_of_an_upload_and_then_of_every_replica(
    client: AdminClient, played: Played, screen: io.StringIO
) -> None:
    played.streams.append([STAGING, Break()])
    with ProgressBars(client, upload=2000) as drawing:
        drawing.add_sent(500)
        soon(lambda: "500 B of 2.0 KB" in screen.getvalue())
        assert not played.asked  # a swap that is under way now is somebody else's
        assert not drawing.uploaded
        drawing.add_sent(1500)
        soon(lambda: "10.0 MB of 40.0 MB  staging" in screen.getvalue())
    shown = screen.getvalue()
    assert "2.0 KB of 2.0 KB" in shown
    assert "swap 9c0ffee01234 to version 4: staging, 1 of 2 replicas" in shown
    assert "40.0 MB of 40.0 MB  staged" in shown


def test_the_bars_of_a_swap_end_full_when_it_is_a_candidate(
    client: AdminClient, played: Played, screen: io.StringIO
) -> None:
    held = swap_progress("candidate", ("r-one", 40, True), ("r-two", 40, True))
    played.streams.append([STAGING, as_json(weights_status(swap=held)), as_json(weights_status(candidate=candidate()))])
    with ProgressBars(client):
        soon(lambda: "candidate, 2 of 2 replicas" in screen.getvalue())
    assert screen.getvalue().count("40.0 MB of 40.0 MB  staged") >= 2


def test_the_bars_go_on_after_the_events_broke_off(client: AdminClient, played: Played, screen: io.StringIO) -> None:
    played.streams += [[STAGING, Break()], ["nonsense"], [COMMITTING]]
    with ProgressBars(client):
        soon(lambda: "committing, 2 of 2 replicas" in screen.getvalue())


def test_before_the_server_has_begun_the_drawing_says_so(client: AdminClient, screen: io.StringIO) -> None:
    with ProgressBars(client):
        pass
    assert "waiting for the server" in screen.getvalue()


def test_the_bars_leave_nothing_behind(client: AdminClient, played: Played, screen: io.StringIO) -> None:
    played.streams.append([STAGING])
    with ProgressBars(client):
        soon(lambda: "r-two" in screen.getvalue())
    assert screen.getvalue().endswith("\x1b[1A\x1b[2K")  # one line up, erase it


def test_refused_events_do_not_disturb_the_drawing(client: AdminClient, played: Played, screen: io.StringIO) -> None:
    played.replies[f"GET {EVENTS}"] = Reply({"error": "no"}, 500)
    with ProgressBars(client):
        soon(lambda: len(played.asked) > 2)
    assert "no" not in screen.getvalue().replace("\x1b", "").split()


def test_elsewhere_than_on_a_terminal_nothing_is_drawn_or_asked(
    client: AdminClient, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBars(client, upload=10) as drawing:
        drawing.add_sent(10)
        assert drawing.uploaded
    assert not played.asked
    assert capsys.readouterr() == ("", "")


def news(model: str, number: int) -> StatusEvent:
    return StatusEvent(model, {}, weights_status(model=model, current=version(number)))


def test_the_screen_shows_the_newest_of_every_model(screen: io.StringIO) -> None:
    with Screen(["a", "b"]) as shown:
        shown.show(news("a", 1))
        shown.show(news("b", 5))
        shown.show(news("a", 2))
    last = screen.getvalue().rpartition("a  version")[2]
    assert last.startswith(" 2 (step 200)")
    assert "b  version 5 (step 500)" in last


def test_the_screen_shows_a_candidate_while_it_is_out(screen: io.StringIO) -> None:
    with Screen(["a"]) as shown:
        shown.show(StatusEvent("a", {}, weights_status(model="a", candidate=candidate())))
        soon(lambda: "share 5%, shadow 10%" in screen.getvalue())
        shown.show(news("a", 4))
    assert "candidate" not in screen.getvalue().rpartition("a  version 4")[2]


def test_the_screen_keeps_the_last_status_and_says_that_it_hears_nothing(screen: io.StringIO) -> None:
    with Screen(["a"]) as shown:
        shown.show(news("a", 1))
        shown.show(StatusEvent("a", trouble="the connection broke off"))
    assert "a  version 1 (step 100)" in screen.getvalue()
    assert "a: the connection broke off; trying again" in screen.getvalue()
    with Screen(["a"]) as shown:
        screen.truncate(0)
        shown.show(StatusEvent("a", trouble="gone"))
        shown.show(news("a", 2))
    assert "trying again" not in screen.getvalue().rpartition("a  version 2")[2]


def test_in_a_pipe_every_change_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(["a"]) as shown:
        shown.show(news("a", 1))
        shown.show(StatusEvent("a", trouble="gone"))
        shown.show(StatusEvent("a", trouble="gone"))
        shown.show(news("a", 2))
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("a")] == [
        "a  version 1 (step 100), previous 2 (step 200), epoch 7",
        "a: gone; trying again",
        "a  version 2 (step 200), previous 2 (step 200), epoch 7",
    ]


def test_all_models_are_watched() -> None:
    with playing() as one, playing() as two:
        one.streams.append([CALM])
        two.streams.append([STAGING])
        heard: list[StatusEvent] = []

        def tell(piece: StatusEvent) -> None:
            heard.append(piece)
            if {found.model for found in heard if found.status} == {"a", "b"}:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            following.watch([AdminClient(one.url, "a"), AdminClient(two.url, "b")], tell)
