"""The command line: `aoti-serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from aoti_serve.cli import packages, server
from aoti_serve.cli.console import AsJson, ProgramGroup, print_json
from aoti_serve.cli.setup.check import check_configuration
from aoti_serve.cli.setup.demo import demo_app
from aoti_serve.cli.setup.initial import init
from aoti_serve.cli.setup.versions import versions_here
from aoti_serve.cli.store import store_app
from aoti_serve.cli.top.command import top
from aoti_serve.cli.weights import candidates, conversion, labels, swaps, views

app = typer.Typer(
    cls=ProgramGroup,
    no_args_is_help=True,
    help="Serve AOTInductor packages on a Ray cluster, and change their weights while they answer.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("package")(packages.package)
app.command("inspect")(packages.inspect)
app.command("up")(server.up)
app.command("down")(server.down)
app.command("init")(init)
app.command("check")(check_configuration)
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
app.add_typer(demo_app, name="demo")


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print our version, torch's, Ray's and Python's.")] = False,
    as_json: AsJson = False,
) -> None:
    if version:
        found = versions_here()
        print_json(found) if as_json else print(*(f"{name} {number}" for name, number in found.items()), sep="\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.BadParameter("--json goes with --version, or behind a command")
