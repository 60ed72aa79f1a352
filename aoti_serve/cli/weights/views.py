"""The commands that show the weights of a running server: `status`, `weights`."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Annotated

import typer

from aoti_serve.cli.answers import value_of
from aoti_serve.cli.client import DEFAULT_URL, AdminClient, Url, served_models
from aoti_serve.cli.console import AsJson, out, print_json, progress_out, reports_errors
from aoti_serve.cli.live import Screen, StatusEvent, watch
from aoti_serve.cli.render import spaced, status_view, story_view, versions_view
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.weights.store.usage import StoredVersion
from aoti_serve.weights.swap.story import StoryEvent

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name in the configuration.")]


@reports_errors
def status(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    watching: Annotated[bool, typer.Option("--watch", help="Show every change, until Ctrl-C.")] = False,
    story: Annotated[bool, typer.Option("--story", help="Show the last events of members and swaps.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the version and the replicas of every model, and the swaps."""
    clients = [AdminClient(url, name) for name in ([model] if model else served_models(url))]
    if story:
        _show_stories(clients, as_json)
        return
    found = [client.status() for client in clients]
    if watching:
        _watch(clients, as_json)
    elif as_json:
        print_json(found)
    else:
        out.print(spaced([status_view(value_of(WeightsStatus, answer), time.time()) for answer in found]))


def _show_stories(clients: list[AdminClient], as_json: bool) -> None:
    found = {client.model: client.story() for client in clients}
    if as_json:
        print_json(found)
        return
    for model, events in found.items():
        out.print(story_view(model, value_of(list[StoryEvent], events)))


@reports_errors
def versions(model: ModelArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the stored versions of a model's weights, and what each alone holds of the disk."""
    client = AdminClient(url, model)
    stored = client.versions()
    if as_json:
        print_json(stored)
    else:
        found = value_of(list[StoredVersion], stored)
        out.print(versions_view(found, value_of(WeightsStatus, client.status()), time.time()))


def _watch(clients: list[AdminClient], as_json: bool) -> None:
    with suppress(KeyboardInterrupt):
        if as_json:
            watch(clients, _print_line)
        with Screen([client.model for client in clients]) as screen:
            watch(clients, screen.show)


def _print_line(news: StatusEvent) -> None:
    """Print one status per line, as JSON."""
    if news.answer is not None:
        print(json.dumps(news.answer), flush=True)
    elif news.trouble:
        progress_out.print(f"{news.model}: {news.trouble}; trying again")
