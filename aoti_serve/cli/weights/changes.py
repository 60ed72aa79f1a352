"""What all commands that change weights share: their options, the progress bars, and the outcome."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import RenderableType

from aoti_serve.cli.answers import safe, value_of
from aoti_serve.cli.candidate_view import held_view, withdrawn_view
from aoti_serve.cli.client import DEFAULT_URL, AdminClient
from aoti_serve.cli.console import out, print_json, program_called, progress_out
from aoti_serve.cli.live import ProgressBars, fate_of_change
from aoti_serve.cli.render import swap_view
from aoti_serve.cluster.status import CandidateStatus, WeightsStatus
from aoti_serve.errors import InvalidBody, InvalidConfig, problems
from aoti_serve.weights.audit import AttemptOutcome
from aoti_serve.weights.rollout.plan import read_plan
from aoti_serve.weights.rollout.quantities import shown_share

INTERRUPTED = 130
NEXT_SHARES = (0.05, 0.2, 0.5)  # of a candidate, one after the other
Options = TypeVar("Options", bound=BaseModel)

ShareOption = Annotated[str | None, typer.Option(help="Of the requests, as 5% or 0.05: a candidate answers these.")]
ShadowOption = Annotated[str | None, typer.Option(help="Of the others: it runs these, too, and drops its answers.")]
RolloutOption = Annotated[
    Path | None,
    typer.Option(
        "--rollout",
        help="A plan in YAML, with the keys of `rollout:` in the configuration: rules promote it, or withdraw it.",
    ),
]
NoRolloutOption = Annotated[
    bool, typer.Option("--no-rollout", help="Commit at once, though the configuration has a rollout.")
]
RenameOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN=NEW", help="Of each name: what the pattern matches at its beginning becomes NEW."),
]
DropOption = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Leave out tensors by their whole, new names.")
]
CastOption = Annotated[
    bool, typer.Option("--cast", help="Convert floats of another width, and tell by how much values are rounded.")
]
AsItIsOption = Annotated[bool, typer.Option("--as-it-is", help="Follow no rules of the configuration's `checkpoints`.")]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Return when it has begun; it goes on on the server.")]


def given_rollout(plan: Path | None, none: bool) -> dict[str, Any]:
    """The plan in the file, or that there is to be none. Raises InvalidConfig, which names the file and the key."""
    if plan is None:
        return {"rollout": False} if none else {}
    if none:
        raise InvalidBody(detail="--no-rollout commits at once: leave out --rollout")
    try:
        return {"rollout": read_plan(plan.read_text(), str(plan))}
    except OSError as error:
        raise InvalidConfig(detail=f"{plan}: {error.strerror}: --rollout takes a file with a plan") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(detail=f"{plan} is no text: --rollout takes a file with a plan") from error


def given_reading(
    rename: Sequence[str] | None, drop: Sequence[str] | None, cast: bool, as_it_is: bool
) -> dict[str, Any]:
    """How the checkpoint is to be read, as far as it was said; the rest stands in the configuration."""
    given = {"rename": tuple(rename or ()), "drop": tuple(drop or ()), "cast": cast}
    return given if as_it_is else {name: asked for name, asked in given.items() if asked}


def given_shares(share: str | None, shadow: str | None) -> dict[str, str]:
    """Those that were given."""
    return {name: given for name, given in (("share", share), ("shadow", shadow)) if given is not None}


def checked_options(kind: type[Options], **asked: Any) -> Options:
    """The options as a value. Raises InvalidBody, which calls them as they are typed."""
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        detail = problems(error.errors()).replace("base_version", "--base-version")
        raise InvalidBody(detail=safe(detail.replace("candidate=true", "--candidate"))) from error


@contextmanager
def progress_of(client: AdminClient, before: Any, upload: int = 0) -> Iterator[ProgressBars]:
    """Progress bars during a change. Ctrl-C ends the command, which then says what became of the change.

    `before` is the server's status from before the change.
    """
    drawing = ProgressBars(client, upload)
    try:
        with drawing:
            yield drawing
    except KeyboardInterrupt:
        if drawing.uploaded:
            fate = fate_of_change(client, value_of(WeightsStatus, before))
            progress_out.print(f"interrupted: {fate}; see `{typed(client, 'status')}`")
        else:
            progress_out.print("interrupted: the upload was not finished, so nothing has changed")
        sys.exit(INTERRUPTED)


def show_changed(client: AdminClient, answer: Any, started: float, begun: bool, as_json: bool) -> None:
    """Print the outcome of a change, or that it has `begun`."""
    if as_json:
        print_json(answer)
    elif begun:
        _show_begun(client, value_of(WeightsStatus, answer))
    else:
        out.print(_outcome_view(client, value_of(WeightsStatus, answer), time.perf_counter() - started))


def typed(client: AdminClient, command: str, *options: str) -> str:
    """The command that does this to the model."""
    url = [] if client.url == DEFAULT_URL else ["--url", client.url]
    return f"{program_called()} {shlex.join([command, client.model, *url, *options])}"


def next_commands(client: AdminClient, candidate: CandidateStatus) -> list[str]:
    """What may become of a candidate: the next larger share, or its end. A rollout changes its shares itself."""
    larger = [share for share in NEXT_SHARES if share > candidate.share and not candidate.plan]
    more = [typed(client, "candidate", "--share", shown_share(share)) for share in larger[:1]]
    watched = [typed(client, "status", "--watch")] if candidate.plan else more
    return [*watched, typed(client, "promote"), typed(client, "withdraw")]


def _show_begun(client: AdminClient, status: WeightsStatus) -> None:
    attempt = status.swap or status.last
    name = f"{attempt.action} {attempt.id}" if attempt else "it"
    out.print(f"{name} has begun; follow it with `{typed(client, 'status', '--watch')}`")


def _outcome_view(client: AdminClient, status: WeightsStatus, seconds: float) -> RenderableType:
    if (candidate := status.candidate) is not None:
        return held_view(status, candidate, seconds, next_commands(client, candidate))
    if status.last is not None and status.last.outcome == AttemptOutcome.WITHDRAWN:
        return withdrawn_view(status, seconds)
    return swap_view(status, seconds)
