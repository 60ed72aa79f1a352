"""The commands for a candidate of a running server: `candidate`, `promote`, `withdraw`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aoti_serve.cli.answers import value_of
from aoti_serve.cli.candidate_view import candidate_view
from aoti_serve.cli.client import DEFAULT_URL, AdminClient, Url
from aoti_serve.cli.console import AsJson, out, print_json, reports_errors
from aoti_serve.cli.weights.changes import (
    NoWaitOption,
    ShadowOption,
    ShareOption,
    checked_options,
    given_shares,
    next_commands,
    progress_of,
    show_changed,
    typed,
)
from aoti_serve.cli.weights.views import ModelArgument
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.weights.swap_options import ExposureOptions


@reports_errors
def candidate(
    model: ModelArgument,
    share: ShareOption = None,
    shadow: ShadowOption = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the candidate, or change the shares of the requests that meet it."""
    asked = given_shares(share, shadow)
    options, client = checked_options(ExposureOptions, **asked), AdminClient(url, model)
    answer = client.expose(options) if asked else client.status()
    if as_json:
        print_json(answer)
        return
    status = value_of(WeightsStatus, answer)
    commands = (
        next_commands(client, status.candidate) if status.candidate else [typed(client, "swap", "FILE", "--candidate")]
    )
    out.print(candidate_view(status, time.time(), commands))


@reports_errors
def promote(
    model: ModelArgument, no_wait: NoWaitOption = False, url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Make every replica answer with the candidate. This is instant: all of them hold it."""
    client = AdminClient(url, model)
    _decide(client, client.promote, no_wait, as_json)


@reports_errors
def withdraw(
    model: ModelArgument, no_wait: NoWaitOption = False, url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Free the candidate everywhere. What answers goes on answering."""
    client = AdminClient(url, model)
    _decide(client, client.withdraw, no_wait, as_json)


def _decide(client: AdminClient, change: Callable[..., Any], no_wait: bool, as_json: bool) -> None:
    started = time.perf_counter()
    with progress_of(client, client.status()):
        answer = change(wait=not no_wait)
    show_changed(client, answer, started, no_wait, as_json)
