"""`aoti-serve swap`, `rollback`, `status`, `weights`: the weights of a running server."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from aoti_serve.cli.client import DEFAULT_URL, AdminClient, Url, model_names
from aoti_serve.cli.console import AsJson, bytes_text, out, print_json, progress_out, reports_errors
from aoti_serve.errors import UnreadableWeights

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name in the configuration.")]


@reports_errors
def swap(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file with the new weights.")],
    label: Annotated[str, typer.Option(help="What to call this version; the file's name if left out.")] = "",
    sha256: Annotated[str | None, typer.Option(help="Refuse any other bytes.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make every replica answer with the weights in FILE; or none, if one of them cannot."""
    if not file.is_file():
        raise UnreadableWeights(detail=f"no file at {file}")
    client = AdminClient(url, model)
    started = time.perf_counter()
    with _ProgressBars(client, upload=file.stat().st_size) as bars:
        status = client.swap(file, label or file.stem, sha256, bars.sent)
    _show_swapped(status, started, as_json)


@reports_errors
def rollback(
    model: Model,
    version: Annotated[int | None, typer.Option("--to", help="A stored version; the previous one if left out.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Swap back to an older version; instant while it is still resident."""
    client = AdminClient(url, model)
    started = time.perf_counter()
    with _ProgressBars(client):
        status = client.rollback(version)
    _show_swapped(status, started, as_json)


@reports_errors
def status(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show what every model answers with, and every replica's receipt."""
    found = [AdminClient(url, name).status() for name in ([model] if model else model_names(url))]
    if as_json:
        print_json(found)
        return
    for entry in found:
        _show_status(entry)


@reports_errors
def versions(model: Model, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the stored versions of a model's weights."""
    client = AdminClient(url, model)
    found, now = client.versions(), client.status()
    if as_json:
        print_json(found)
        return
    table = Table("version", "", "label", "digest", "tensors", "size", "age")
    for entry in found:
        mark = _mark(entry["number"], now)
        age = _age(time.time() - entry["created"])
        size = bytes_text(entry["nbytes"])
        table.add_row(
            str(entry["number"]), mark, entry["label"], entry["digest"][:12], str(entry["tensors"]), size, age
        )
    out.print(table)


class _ProgressBars:
    """An upload bar, and one that follows the swap through its phases by the server's events."""

    def __init__(self, client: AdminClient, upload: int = 0) -> None:
        columns = (
            TextColumn("{task.description:>10}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=progress_out, transient=True, disable=not progress_out.is_terminal)
        self._client = client
        self._upload = self._progress.add_task("upload", total=upload, note="") if upload else None
        self._swap = self._progress.add_task("swap", total=None, note="")
        self._follower = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> _ProgressBars:
        self._progress.start()
        self._follower.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._client.close()

    def sent(self, count: int) -> None:
        if self._upload is not None:
            self._progress.advance(self._upload, count)

    def _follow(self) -> None:
        with suppress(httpx.HTTPError, RuntimeError):  # it only draws; the command itself reports what goes wrong
            for status in self._client.events():
                if swap := status["swap"]:
                    note = f"{swap['phase']} version {swap['version']}: {swap['done']} of {swap['replicas']} replicas"
                    self._progress.update(self._swap, total=swap["replicas"], completed=swap["done"], note=note)


def _show_swapped(status: Any, started: float, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    took = time.perf_counter() - started
    text = f" answers with version {_name(status['current'])}  ({took:.2f} s)"
    out.print(Text.assemble((status["model"], "bold green"), text))
    out.print(_receipts(status))


def _show_status(status: Any) -> None:
    previous = f", previous {_name(status['previous'])}" if status["previous"] else ""
    text = f"  version {_name(status['current'])}{previous}, epoch {status['epoch']}"
    out.print(Text.assemble((status["model"], "bold"), text))
    if swap := status["swap"]:
        out.print(f"swap to version {swap['version']}: {swap['phase']}, {swap['done']} of {swap['replicas']} replicas")
    out.print(_receipts(status))


def _receipts(status: Any) -> Table:
    table = Table("replica", "node", "pid", "device", "gpu", "version", "digest", "ms")
    for receipt in status["replicas"]:
        table.add_row(
            receipt["replica"],
            receipt["node"][:8],
            str(receipt["pid"]),
            receipt["device"],
            ",".join(receipt["gpu_ids"]) or "-",
            str(receipt["version"]),
            receipt["digest"][:12] or "-",
            f"{receipt['milliseconds']:.1f}",
        )
    return table


def _name(version: Any) -> str:
    return f"{version['number']} ({version['label']})" if version["label"] else str(version["number"])


def _mark(number: int, status: Any) -> str:
    if number == status["current"]["number"]:
        return "current"
    return "previous" if status["previous"] and number == status["previous"]["number"] else ""


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
