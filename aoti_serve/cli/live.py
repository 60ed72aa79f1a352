"""Following of changes to weights: progress bars, `status --watch`, and what became of an interrupted change."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from aoti_serve.cli.answers import value_of
from aoti_serve.cli.client import AdminClient
from aoti_serve.cli.console import out, progress_out
from aoti_serve.cli.render import bar, bars, spaced, status_view, swap_bars_view
from aoti_serve.cluster.status import SwapProgress, WeightsStatus
from aoti_serve.errors import AotiServeError
from aoti_serve.launcher.processes.background import in_background

# Within this time a server that has the whole request begins the change, or sees that the client has gone.
BEGIN_S = 3.0
ASK_AGAIN_S = 0.2
WATCH_RETRY_S = 0.5
BARS_PER_SECOND = 10
WATCHES_PER_SECOND = 4


class StatusEvent(NamedTuple):
    """One event: the status as JSON and as a value, or the reason why no status arrives now (`trouble`)."""

    model: str
    answer: Any = None
    status: WeightsStatus | None = None
    trouble: str | None = None


def follow(client: AdminClient, hear: Callable[[StatusEvent], None], stopped: threading.Event) -> None:
    """Pass events to `hear` until `stopped` is set. If the stream breaks it reports that, and connects again."""
    while not stopped.is_set():
        for event in _events_of(client):
            if not stopped.is_set():
                hear(event)
            if stopped.is_set():  # the next event may be long in coming
                return
        stopped.wait(WATCH_RETRY_S)


def _events_of(client: AdminClient) -> Iterator[StatusEvent]:
    try:
        for answer in client.events():
            yield StatusEvent(client.model, answer, value_of(WeightsStatus, answer))
    except AotiServeError as error:
        yield StatusEvent(client.model, trouble=str(error))
    else:
        yield StatusEvent(client.model, trouble="the server has ended the events")


class ProgressBars:
    """Progress bars of a change, on a terminal: first the upload, then each replica. Draws nothing elsewhere.

    Errors are not shown here; the caller reports them.
    """

    def __init__(self, client: AdminClient, upload: int = 0) -> None:
        self._upload = upload
        self._sent = 0
        self._swap: SwapProgress | None = None
        self._started = time.perf_counter()
        self._client = client
        self._stopped = threading.Event()
        self._live = Live(
            console=progress_out, get_renderable=self._frame, transient=True, refresh_per_second=BARS_PER_SECOND
        )

    def __enter__(self) -> ProgressBars:
        if progress_out.is_terminal:
            self._live.start()
        if not self._upload:
            self._follow()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._live.stop()

    @property
    def uploaded(self) -> bool:
        return self._sent >= self._upload

    def add_sent(self, count: int) -> None:
        self._sent += count
        if self.uploaded:  # until then, a swap under way is of another client
            self._follow()

    def _follow(self) -> None:
        if progress_out.is_terminal:
            in_background(lambda: follow(self._client, self._hear, self._stopped))

    def _hear(self, news: StatusEvent) -> None:
        if news.status and news.status.swap:
            self._swap = news.status.swap

    def _frame(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._upload:
            grid = bars()
            grid.add_row(*bar("upload", self._sent, self._upload, self._upload_state()))
            parts.append(grid)
        if self._swap:
            parts.append(swap_bars_view(self._swap))
        elif self.uploaded:
            parts.append(Text("waiting for the server", "dim"))
        return Group(*parts)

    def _upload_state(self) -> str:
        return "done" if self.uploaded else f"{time.perf_counter() - self._started:.0f} s"


def watch(clients: Sequence[AdminClient], tell: Callable[[StatusEvent], None]) -> None:
    """Pass every event of these models to `tell`. Never returns."""
    heard: queue.SimpleQueue[StatusEvent] = queue.SimpleQueue()
    for client in clients:
        in_background(partial(follow, client, heard.put, threading.Event()))
    while True:
        tell(heard.get())


class Screen:
    """The view of `status --watch`: the newest status of each model, drawn anew at each change.

    Where it cannot be drawn anew, each change is printed.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self._newest = {model: StatusEvent(model) for model in models}
        self._live = Live(console=out, get_renderable=self._frame, refresh_per_second=WATCHES_PER_SECOND)

    def __enter__(self) -> Screen:
        if out.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, news: StatusEvent) -> None:
        before = self._newest[news.model]
        self._newest[news.model] = news._replace(status=news.status or before.status)
        if not out.is_terminal and (news.status or news.trouble != before.trouble):
            out.print(_shown(news))

    def _frame(self) -> RenderableType:
        return spaced(list(map(_shown, self._newest.values())))


def fate_of_change(client: AdminClient, before: WeightsStatus) -> str:
    """Ask the server what became of the change. Returns it as a sentence.

    `before` is the status from before the change was asked for. Takes `BEGIN_S` if the server has not begun the change;
    Ctrl-C ends the wait.
    """
    until = time.monotonic() + BEGIN_S
    try:
        while (found := new_attempt(before, value_of(WeightsStatus, client.status()))) is None:
            if time.monotonic() >= until:
                return "the server has not begun the change, so nothing has changed"
            time.sleep(ASK_AGAIN_S)
    except AotiServeError as error:
        return f"whether the server has begun the change is not known: {error}"
    except KeyboardInterrupt:
        return "whether the server has begun the change is not known"
    return found


def new_attempt(before: WeightsStatus, now: WeightsStatus) -> str | None:
    """The progress of the attempt that has begun since `before`, as a sentence; None if there is none."""
    known = {attempt.id for attempt in (before.swap, before.last) if attempt}
    if now.swap and now.swap.id not in known:
        return f"{now.swap.action} {now.swap.id} goes on on the server (phase {now.swap.phase})"
    if now.last and now.last.id not in known:
        what = f"{now.last.action} {now.last.id}"
        if now.last.error is None:
            out = f", version {now.candidate.version.number} is a candidate" if now.candidate else ""
            return f"{what} has ended on the server: version {now.current.number} answers{out}"
        return f"{what} has failed on the server: {now.last.error}"
    return None


def _shown(news: StatusEvent) -> RenderableType:
    parts: list[RenderableType] = [status_view(news.status, time.time())] if news.status else []
    if news.trouble:
        parts.append(Text(f"{news.model}: {news.trouble}; trying again", "yellow", no_wrap=False, overflow="fold"))
    return Group(*parts)
