"""The command line: `aoti-serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from aoti_serve import __version__
from aoti_serve.cli import packages, server
from aoti_serve.cli.store import store_app
from aoti_serve.cli.top.command import top
from aoti_serve.cli.weights import candidates, conversion, labels, swaps, views

app = typer.Typer(
    no_args_is_help=True,
    help="Serve AOTInductor packages on a Ray cluster, and change their weights while they answer.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("package")(packages.package)
app.command("inspect")(packages.inspect)
app.command("up")(server.up)
app.command("down")(server.down)
app.command("token")(server.token)
app.command("status")(views.status)
app.command("top")(top)
app.command("convert")(conversion.convert)
app.command("swap")(swaps.swap)
app.command("rollback")(swaps.rollback)
app.command("candidate")(candidates.candidate)
app.command("promote")(candidates.promote)
app.command("withdraw")(candidates.withdraw)
app.command("weights")(views.versions)
app.command("label")(labels.label)
app.add_typer(store_app, name="store")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
