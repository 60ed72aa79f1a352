"""The commands that change the weights of a running server: `swap`, `rollback`."""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from pydantic import ValidationError

from aoti_serve.cli.client import DEFAULT_URL, AdminClient, Url, safe, value_of
from aoti_serve.cli.console import AsJson, out, print_json, progress_out, reports_errors
from aoti_serve.cli.live import ProgressBars, fate_of_change
from aoti_serve.cli.render import swap_view
from aoti_serve.cli.weights.views import ModelArgument
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.config import problems
from aoti_serve.errors import InvalidBody, UnreadableWeights
from aoti_serve.signature.golden.file import golden_content, parse_golden
from aoti_serve.weights.adapter_config import WEIGHTS_NAME, adapter_at
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.swap_options import SwapOptions

INTERRUPTED = 130
LABEL_LENGTH = 256

NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Return when it has begun; it goes on on the server.")]


@reports_errors
def swap(
    model: ModelArgument,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A safetensors file, or a URI that the server reads.")
    ],
    uri: Annotated[bool, typer.Option("--uri", help="SOURCE is for the server to read, also without '://'.")] = False,
    label: Annotated[str, typer.Option(help="What to call this version; the file's name if left out.")] = "",
    sha256: Annotated[str | None, typer.Option(help="Refuse any other bytes.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Only changes to --base-version; the rest stays.")] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="A LoRA adapter of PEFT's: the folder, or the file in it.")
    ] = False,
    base_version: Annotated[
        int | None, typer.Option(help="Refuse unless this version answers; of an adapter: merge it into this one.")
    ] = None,
    no_strict: Annotated[bool, typer.Option("--no-strict", help="Pass over changes to compiled-in values.")] = False,
    skip_acceptance: Annotated[
        bool, typer.Option("--skip-acceptance", help="Take NaN and infinite values; ask no golden requests.")
    ] = False,
    golden: Annotated[
        Path | None, typer.Option(help="A file of golden requests that these weights must answer rightly.")
    ] = None,
    no_wait: NoWaitOption = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make every replica answer with the weights in SOURCE. If one of them cannot, nothing changes."""
    remote, config = uri or "://" in source, None
    requests = _golden_content(golden) if golden else b""
    if adapter and not remote:
        file, config = adapter_at(Path(source))
        source = str(file)
    options = _options(
        label=label or _name(source),
        sha256=sha256,
        partial=partial,
        adapter=adapter,
        adapter_config=config,
        base_version=base_version,
        strict=not no_strict,
        golden=hashlib.sha256(requests).hexdigest() if requests else None,
        skip_acceptance=skip_acceptance,
    )
    client, started = AdminClient(url, model), time.perf_counter()
    if requests:
        client.offer_golden(requests)
    if remote:
        with _progress_of(client, client.status()):
            answer = client.swap_uri(source, options, wait=not no_wait)
    else:
        answer = _upload(client, Path(source), options, wait=not no_wait)
    _show_changed(client, answer, started, no_wait, as_json)


@reports_errors
def rollback(
    model: ModelArgument,
    version: Annotated[int | None, typer.Option("--to", help="A stored version; the previous one if left out.")] = None,
    no_wait: NoWaitOption = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Swap back to an older version. This is instant while that version is still resident."""
    client, started = AdminClient(url, model), time.perf_counter()
    with _progress_of(client, client.status()):
        answer = client.rollback(version, wait=not no_wait)
    _show_changed(client, answer, started, no_wait, as_json)


def _options(**asked: Any) -> SwapOptions:
    try:
        return SwapOptions.model_validate(asked)
    except ValidationError as error:
        detail = problems(error.errors()).replace("base_version", "--base-version")
        raise InvalidBody(detail=safe(detail)) from error


def _golden_content(file: Path) -> bytes:
    content = golden_content(file)
    parse_golden(content)  # what is wrong with it is said before anything is sent
    return content


def _name(source: str) -> str:
    """The label of a version for which none was given: the name of its file, or of the folder that PEFT has made."""
    path = source
    if "://" in source:
        with suppress(ValueError):
            path = urlsplit(source).path
    named = PurePosixPath(path)
    return safe(named.parent.name if named.name == WEIGHTS_NAME else named.stem)[:LABEL_LENGTH]


def _upload(client: AdminClient, file: Path, options: SwapOptions, *, wait: bool) -> Any:
    """Upload the file. Errors of the file, the server, the token and the model's name are found before it is sent."""
    if not file.is_file():
        raise UnreadableWeights(detail=f"no file at {file}; --uri if the server is to read it")
    read_index(file)
    with _progress_of(client, client.status(), file.stat().st_size) as drawing:
        return client.swap_file(file, options, drawing.add_sent, wait=wait)


@contextmanager
def _progress_of(client: AdminClient, before: Any, upload: int = 0) -> Iterator[ProgressBars]:
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
            progress_out.print(f"interrupted: {fate}; see `{_look(client)}`")
        else:
            progress_out.print("interrupted: the upload was not finished, so nothing has changed")
        sys.exit(INTERRUPTED)


def _show_changed(client: AdminClient, answer: Any, started: float, begun: bool, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    status = value_of(WeightsStatus, answer)
    if not begun:
        out.print(swap_view(status, time.perf_counter() - started))
        return
    attempt = status.swap or status.last
    name = f"{attempt.action} {attempt.id}" if attempt else "it"
    out.print(f"{name} has begun; follow it with `{_look(client)} --watch`")


def _look(client: AdminClient) -> str:
    """The command that shows the progress."""
    url = [] if client.url == DEFAULT_URL else ["--url", client.url]
    return shlex.join(["aoti-serve", "status", client.model, *url])
