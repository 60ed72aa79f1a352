"""The commands that change the weights of a running server: `swap`, `rollback`."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from aoti_serve.cli.answers import safe
from aoti_serve.cli.client import DEFAULT_URL, AdminClient, Url
from aoti_serve.cli.console import AsJson, reports_errors
from aoti_serve.cli.weights.changes import (
    AsItIsOption,
    CastOption,
    DropOption,
    NoRolloutOption,
    NoWaitOption,
    RenameOption,
    RolloutOption,
    ShadowOption,
    ShareOption,
    checked_options,
    given_reading,
    given_rollout,
    given_shares,
    progress_of,
    show_changed,
)
from aoti_serve.cli.weights.rollouts import has_begun_rollout, outcome_of_rollout
from aoti_serve.cli.weights.views import ModelArgument
from aoti_serve.errors import UnreadableWeights
from aoti_serve.signature.golden.file import golden_content, parse_golden
from aoti_serve.weights.adapter_config import WEIGHTS_NAME, adapter_at
from aoti_serve.weights.assets import assets_in, digests_of, given_assets
from aoti_serve.weights.files.checkpoint import checkpoint_spans, open_checkpoint
from aoti_serve.weights.files.sharded import is_shard_index
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import LONGEST_LABEL


@reports_errors
def swap(
    model: ModelArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A safetensors file, a *.safetensors.index.json with its shards, a folder, or a URI for the server.",
        ),
    ],
    uri: Annotated[bool, typer.Option("--uri", help="SOURCE is for the server to read, also without '://'.")] = False,
    label: Annotated[str, typer.Option(help="What to call this version; the file's name if left out.")] = "",
    sha256: Annotated[
        str | None, typer.Option(help="Refuse any other bytes; of shards: of the one file they make.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Only changes to --base-version; the rest stays.")] = False,
    delta: Annotated[
        bool,
        typer.Option("--delta", help="Changed rows and elements of what answers, as Python's save_delta writes."),
    ] = False,
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
    rename: RenameOption = None,
    drop: DropOption = None,
    cast: CastOption = False,
    as_it_is: AsItIsOption = False,
    golden: Annotated[
        Path | None, typer.Option(help="A file of golden requests that these weights must answer rightly.")
    ] = None,
    asset: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE", help="A file that the processor reads with these weights; repeatable."),
    ] = None,
    candidate: Annotated[
        bool, typer.Option("--candidate", help="Only stage it: `promote` or `withdraw` decides.")
    ] = False,
    share: ShareOption = None,
    shadow: ShadowOption = None,
    rollout: RolloutOption = None,
    no_rollout: NoRolloutOption = False,
    no_wait: NoWaitOption = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make every replica answer with the weights in SOURCE. If one of them cannot, nothing changes.

    With a rollout this waits for its end, and fails unless the weights answer then.
    """
    remote, config = uri or "://" in source, None
    requests = _golden_content(golden) if golden else b""
    client, started = AdminClient(url, model), time.perf_counter()
    assets = given_assets(asset or ())
    if adapter and not remote:
        file, config = adapter_at(Path(source))
        source = str(file)
    if os.path.isdir(source) and not remote:
        _check_readable(Path(source))  # what is wrong with it is said before the server is asked
        assets = {**assets_in(Path(source), client.status().get("assets", ())), **assets}
    options = checked_options(
        SwapOptions,
        label=label or _name(source),
        sha256=sha256,
        partial=partial,
        delta=delta,
        adapter=adapter,
        adapter_config=config,
        base_version=base_version,
        strict=not no_strict,
        golden=hashlib.sha256(requests).hexdigest() if requests else None,
        skip_acceptance=skip_acceptance,
        assets=digests_of(assets),
        **given_reading(rename, drop, cast, as_it_is),
        candidate=candidate,
        **given_shares(share, shadow),
        **given_rollout(rollout, no_rollout),
    )
    options.check_rules()  # what is wrong with them is said before anything is sent
    if requests:
        client.offer_golden(requests)
    for content in assets.values():
        client.offer_asset(content)
    if remote:
        with progress_of(client, client.status()):
            answer = client.swap_uri(source, options, wait=not no_wait)
    else:
        answer = _upload(client, Path(source), options, wait=not no_wait)
    if has_begun_rollout(answer) and not no_wait:
        answer = outcome_of_rollout(client, answer, started, as_json)
    show_changed(client, answer, started, no_wait, as_json)


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
    with progress_of(client, client.status()):
        answer = client.rollback(version, wait=not no_wait)
    show_changed(client, answer, started, no_wait, as_json)


def _golden_content(file: Path) -> bytes:
    content = golden_content(file)
    parse_golden(content)  # what is wrong with it is said before anything is sent
    return content


def _name(source: str) -> str:
    """The label of a version for which none was given: the name of its file, or of the folder that was saved."""
    if os.path.isdir(source):
        return safe(Path(source).resolve().name)[:LONGEST_LABEL]
    path = source
    if "://" in source:
        with suppress(ValueError):
            path = urlsplit(source).path
    named = PurePosixPath(path)
    of_folder = named.name == WEIGHTS_NAME or is_shard_index(named.name)
    return safe(named.parent.name if of_folder else named.stem)[:LONGEST_LABEL]


def _upload(client: AdminClient, file: Path, options: SwapOptions, *, wait: bool) -> Any:
    """Upload the file. Errors of the file, the server, the token and the model's name are found before it is sent."""
    if not os.path.exists(file):
        raise UnreadableWeights(detail=f"no file at {file}; --uri if the server is to read it")
    _check_readable(file)
    with progress_of(client, client.status(), open_checkpoint(file).nbytes) as drawing:
        return client.swap_file(file, options, drawing.add_sent, wait=wait)


def _check_readable(place: Path) -> None:
    """Raise UnreadableWeights, which names the file."""
    try:
        checkpoint_spans(place)
    except UnreadableWeights as error:
        if str(place) in error.detail:
            raise
        raise UnreadableWeights(detail=f"{place}: {error.detail}") from error
