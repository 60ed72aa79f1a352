"""The command `top`: it asks for figures every second, follows the weights' events, and listens to the keys."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from aoti_serve.cli.answers import value_of
from aoti_serve.cli.client import DEFAULT_URL, AdminClient, Url, served_models
from aoti_serve.cli.console import out, reports_errors
from aoti_serve.cli.live import StatusEvent, follow
from aoti_serve.cli.top.keys import MOVES, QUIT, pressed, raw_keys
from aoti_serve.cli.top.samples import FiguresWindow, Sample
from aoti_serve.cli.top.view import SPARKS, line_of, top_view
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import AotiServeError
from aoti_serve.launcher.processes.background import in_background

PERIOD_S = 1.0


class Watched:
    """One model: its last samples and its newest status, heard in the background."""

    def __init__(self, client: AdminClient) -> None:
        self.model = client.model
        self.samples: deque[Sample | None] = deque(maxlen=SPARKS)
        self.status: WeightsStatus | None = None
        self._unasked: str | None = None  # why no figures come
        self._unheard: str | None = None  # why no events come
        self._client = client
        self._window = FiguresWindow()

    @property
    def trouble(self) -> str | None:
        """Why less is known than could be."""
        return self._unasked or self._unheard

    def begin(self) -> None:
        """Follow the status. Raises what asking for it does: a wrong token is told at once, and not sent forever."""
        self.status = value_of(WeightsStatus, self._client.status())
        in_background(partial(follow, self._client, self._hear, threading.Event()))

    def ask(self) -> None:
        """Take one sample; a server that does not answer is trouble, and a gap."""
        try:
            self.samples.append(self._window.take(self._client.figures(), time.monotonic()))
            self._unasked = None
        except AotiServeError as error:
            self.samples.append(None)
            self._unasked = str(error)

    def view(self, hint: str) -> RenderableType:
        return top_view(self.samples, self.status, self.trouble, hint, time.time())

    @property
    def line(self) -> str:
        figures = line_of(self.model, self.samples[-1] if self.samples else None, self.status)
        return f"{self.model}: {self.trouble}; trying again" if self.trouble else figures

    def _hear(self, news: StatusEvent) -> None:
        self.status, self._unheard = news.status or self.status, news.trouble


@reports_errors
def top(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Show what the models do, every second: requests, latency, batches, errors, replicas and swaps.

    The arrows choose a model, q ends it. In a pipe it prints a line per model and second.
    """
    watched = [Watched(AdminClient(url, name)) for name in ([model] if model else served_models(url))]
    for each in watched:
        each.begin()
    with suppress(KeyboardInterrupt):
        if out.is_terminal:
            _show(watched)
        else:
            _print(watched)


def _print(watched: Sequence[Watched]) -> None:
    while True:
        for each in watched:
            each.ask()
            print(each.line, flush=True)
        time.sleep(PERIOD_S)


def _show(watched: Sequence[Watched]) -> None:
    chosen = 0
    with raw_keys() as keys, Live(console=out, screen=True, auto_refresh=False) as live:
        key = b""
        while key != QUIT:
            chosen = (chosen + MOVES.get(key, 0)) % len(watched)
            if not key:
                for each in watched:
                    each.ask()
            live.update(watched[chosen].view(_hint(watched, chosen, keys)), refresh=True)
            key = pressed(PERIOD_S) if keys else _waited()


def _waited() -> bytes:
    time.sleep(PERIOD_S)
    return b""


def _hint(watched: Sequence[Watched], chosen: int, keys: bool) -> str:
    several = f"{watched[chosen].model}, {chosen + 1} of {len(watched)}: arrows choose another; " if watched[1:] else ""
    return f"{several}{'q' if keys else 'Ctrl-C'} ends it"
