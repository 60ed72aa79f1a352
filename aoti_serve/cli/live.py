"""Following of changes to weights: progress bars, `status --watch`, and what became of an interrupted change."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from aoti_serve.cli.client import AdminClient, value_of
from aoti_serve.cli.console import out, progress_out
from aoti_serve.cli.render import bar, bars, spaced, status_view, swap_bars_view
from aoti_serve.cluster.status import SwapProgress, WeightsStatus
from aoti_serve.errors import AotiServeError

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


class EventStream:
    """A thread that passes events to `hear`. If the stream breaks it reports that, and connects again."""

    def __init__(self, client: AdminClient, hear: Callable[[StatusEvent], None]) -> None:
        self._client = client
        self._hear = hear
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Pass on no further events. Does not wait for the thread, which may be reading."""
        self._stopped.set()

    def _run(self) -> None:
        model = self._client.model
        while not self._stopped.is_set():
            try:
                for answer in self._client.events():
                    self._tell(StatusEvent(model, answer, value_of(WeightsStatus, answer)))
                self._tell(StatusEvent(model, trouble="the server has ended the events"))
            except AotiServeError as error:
                self._tell(StatusEvent(model, trouble=str(error)))
            self._stopped.wait(WATCH_RETRY_S)

    def _tell(self, news: StatusEvent) -> None:
        if not self._stopped.is_set():
            self._hear(news)


class ProgressBars:
    """Progress bars of a change, on a terminal: first the upload, then each replica. Draws nothing elsewhere.

    Errors are not shown here; the caller reports them.
    """

    def __init__(self, client: AdminClient, upload: int = 0) -> None:
        self._upload = upload
        self._sent = 0
        self._swap: SwapProgress | None = None
        self._started = time.perf_counter()
        self._follower = EventStream(client, self._hear)
        self._live = Live(
            console=progress_out, get_renderable=self._frame, transient=True, refresh_per_second=BARS_PER_SECOND
        )

    def __enter__(self) -> ProgressBars:
        if progress_out.is_terminal:
            self._live.start()
            if not self._upload:
                self._follower.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.stop()
        self._live.stop()

    @property
    def uploaded(self) -> bool:
        return self._sent >= self._upload

    def add_sent(self, count: int) -> None:
        self._sent += count
        if self.uploaded and progress_out.is_terminal:  # until then, a swap under way is of another client
            self._follower.start()

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
        EventStream(client, heard.put).start()
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
            return f"{what} has ended on the server: version {now.current.number} answers"
        return f"{what} has failed on the server: {now.last.error}"
    return None


def _shown(news: StatusEvent) -> RenderableType:
    parts: list[RenderableType] = [status_view(news.status, time.time())] if news.status else []
    if news.trouble:
        parts.append(Text(f"{news.model}: {news.trouble}; trying again", "yellow", no_wrap=False, overflow="fold"))
    return Group(*parts)
