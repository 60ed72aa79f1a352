"""`aoti-serve store`: a store of weights on this machine or at a URI, with or without a server."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from aoti_serve.cli.answers import assets_text, golden_text, safe
from aoti_serve.cli.console import AsJson, as_pasted, bytes_text, out, phases, print_json, progress_out, reports_errors
from aoti_serve.cli.render import DIGEST_DIGITS
from aoti_serve.config import absolute
from aoti_serve.errors import InvalidBody
from aoti_serve.weights.files.checkpoint import checkpoint_label
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import StoreCheckup, VersionCheckup, check_store, total_bytes
from aoti_serve.weights.store.repair import export_version, find_version, golden_beside, import_file, set_current
from aoti_serve.weights.version import LONGEST_LABEL

store_app = typer.Typer(
    no_args_is_help=True, help="Check a store of weights, take versions out, put one in, choose the one that answers."
)

StoreArgument = Annotated[
    str, typer.Argument(metavar="STORE", help="A folder or a URI: `store` of the configuration, or <package>.versions.")
]
NumberArgument = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="A version's number.")]
NoGoldenOption = Annotated[bool, typer.Option("--no-golden", help="Leave its golden requests out.")]


@store_app.command("check")
@reports_errors
def check(store: StoreArgument, as_json: AsJson = False) -> None:
    """Read every byte of the store, and say which versions are whole. Exit status 1 if something is damaged."""
    catalog = _catalog(store)
    with _reading(total_bytes(catalog) if catalog.exists else 0) as advance:
        found = check_store(catalog, advance)
    if as_json:
        print_json(found.model_dump() | {"whole": found.whole})
    else:
        _show(found)
    if not found.whole:
        sys.exit(1)


@store_app.command("export")
@reports_errors
def export(
    store: StoreArgument,
    number: NumberArgument,
    to: Annotated[
        Path,
        typer.Option("--out", help="The safetensors file to write; its record and what came with it lie beside it."),
    ],
    no_golden: NoGoldenOption = False,
    as_json: AsJson = False,
) -> None:
    """Write a version's safetensors file, its record, golden requests and assets; digests are checked on the way."""
    catalog = _catalog(store)
    version = find_version(catalog, number)
    with _reading(version.nbytes) as advance:
        written = export_version(catalog, version, to, advance, golden=not no_golden)
    if as_json:
        paths = {name: path and str(path) for name, path in written._asdict().items()}
        print_json(paths | {"version": version.model_dump()})
    else:
        requests = f", {written.golden} ({golden_text(version)})" if written.golden else ""
        files = f", {written.assets} ({assets_text(version)})" if written.assets else ""
        out.print(f"version {number}: {to} ({bytes_text(version.nbytes)}){requests}{files} and {written.record}")


@store_app.command("import")
@reports_errors
def import_weights(
    store: StoreArgument,
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A safetensors file, an index of shards, or a folder.")
    ],
    label: Annotated[str, typer.Option(help="What to call this version; the file's name if left out.")] = "",
    golden: Annotated[
        Path | None, typer.Option(help="Its golden requests; if left out, those that `export` has put beside FILE.")
    ] = None,
    no_golden: NoGoldenOption = False,
    create: Annotated[bool, typer.Option("--create", help="Make a store if there is none at STORE.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a safetensors file a version, which does not answer yet. No package is asked whether it fits."""
    named = safe(label or checkpoint_label(source))[:LONGEST_LABEL]
    with phases() as phase:
        phase(f"reading {safe(str(source))}")
        version = import_file(_catalog(store), source, named, _golden(source, golden, no_golden), create=create)
    if as_json:
        print_json({"version": version.model_dump(), "checked_against_a_package": False})
        return
    more = ", ".join(filter(None, (golden_text(version), assets_text(version))))
    requests = f", with {more}" if more else ""
    out.print(f"{source} is version {version.number} now{requests}; no package was asked whether it fits.")
    out.print("To let it answer:")
    out.print(as_pasted(f"`aoti-serve rollback MODEL --to {version.number}` where a server runs, or"))
    out.print(as_pasted(f"`aoti-serve store set-current {shlex.quote(safe(store))} {version.number}`"))


@store_app.command("set-current")
@reports_errors
def choose(store: StoreArgument, number: NumberArgument, as_json: AsJson = False) -> None:
    """Make a stored version the committed one. A server that runs follows within some seconds."""
    catalog = _catalog(store)
    version = find_version(catalog, number)
    with _reading(version.nbytes) as advance:
        committed = set_current(catalog, version, advance)
    if as_json:
        print_json(committed.model_dump())
        return
    previous = f", previous {committed.previous.number}" if committed.previous else ", and nothing is known before it"
    out.print(f"version {number} is committed: epoch {committed.epoch}{previous}")


def _golden(source: Path, given: Path | None, none: bool) -> Path | None:
    """The file of golden requests that goes with a version which is put in."""
    if none and given:
        raise InvalidBody(detail="--no-golden leaves golden requests out: leave out --golden")
    beside = given is None and not none and source.is_file() and golden_beside(source)
    return beside if beside and beside.is_file() else given


def _catalog(store: str) -> Catalog:
    root = absolute(store)
    return Catalog(root, os.path.basename(root.rstrip("/")))


@contextmanager
def _reading(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal while bytes are read; elsewhere nothing."""
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=progress_out, transient=True, disable=not progress_out.is_terminal) as progress:
        task = progress.add_task("reading", total=total)
        yield lambda nbytes: progress.advance(task, nbytes)


def _show(found: StoreCheckup) -> None:
    table = Table(Column("version", justify="right"), "", "label", "digest", Column("size", justify="right"), box=None)
    for version in found.versions:
        cells = (safe(version.label), version.digest[:DIGEST_DIGITS], bytes_text(version.nbytes))
        table.add_row(str(version.number), _state(version, found), *cells)
    out.print(f"{safe(found.store)}: epoch {_shown(found.epoch)}, term {_shown(found.term)}")
    out.print(table)
    for damage in [*found.damage, *(version.damage for version in found.versions if version.damage)]:
        out.print(f"damaged: {safe(damage)}", style="red")
    way_out = as_pasted(
        f"`aoti-serve store set-current {shlex.quote(safe(found.store))} N` makes a whole version answer"
    )
    out.print("all of it is whole" if found.whole else way_out)


def _state(version: VersionCheckup, found: StoreCheckup) -> str:
    marks = {
        "damaged": version.damage is not None,
        "current": version.number == found.current,
        "previous": version.number == found.previous,
        "never committed": version.staged,
    }
    return ", ".join([mark for mark, holds in marks.items() if holds] + ["whole"] * (version.damage is None))


def _shown(number: int | None) -> str:
    return "unknown" if number is None else str(number)
