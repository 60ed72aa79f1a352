"""`aoti-serve demo`: the handwritten digits, made and served, into a folder of the user's."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from aoti_serve.cli.client import DEFAULT_URL
from aoti_serve.cli.console import AsJson, Terminal, program_called, reports_errors
from aoti_serve.cli.packages import torchs_voice
from aoti_serve.cli.server import (
    METRICS_PORT,
    AddressOption,
    DrainSecondsOption,
    GrpcPortOption,
    HostOption,
    MetricsPortOption,
    PortOption,
    ReplaceOption,
    VerboseOption,
    serve_file,
)
from aoti_serve.cli.setup.traffic_view import traffic
from aoti_serve.demo.configuration import demo_configuration, demo_in

FOLDER = Path("aoti-serve-demo")
CONFIGURED = "model.yaml"

demo_app = typer.Typer(invoke_without_command=True)
demo_app.command("traffic")(traffic)


@demo_app.callback()
@reports_errors
def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(help="Where the demo is made, and where its versions stay.")] = FOLDER,
    only_make: Annotated[bool, typer.Option("--only-make", help="Make it, also anew, and serve nothing.")] = False,
    host: HostOption = None,
    port: PortOption = None,
    grpc_port: GrpcPortOption = None,
    metrics_port: MetricsPortOption = METRICS_PORT,
    address: AddressOption = None,
    replace: ReplaceOption = False,
    drain_seconds: DrainSecondsOption = 30.0,
    verbose: VerboseOption = False,
    as_json: AsJson = False,
) -> None:
    """Train, compile and serve handwritten digits, and print commands to paste. Ctrl-C ends it.

    What is made stays in --folder, and so do the versions that are swapped in: the next start answers with the one that
    was committed last. Delete the folder to begin again.
    """
    if context.invoked_subcommand is not None:
        return
    with Terminal() as log:
        _make(folder, log, verbose=verbose, anew=only_make)
    if not only_make:
        serve_file(
            folder / CONFIGURED,
            host=host,
            port=port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            address=address,
            replace=replace,
            drain_seconds=drain_seconds,
            verbose=verbose,
            as_json=as_json,
            more=_traffic_command,
        )


def _make(folder: Path, log: Terminal, *, verbose: bool, anew: bool) -> None:
    if not demo_in(folder) or anew:
        log.progress("making the demo: importing torch")
        from aoti_serve.demo.making import make_demo

        with torchs_voice(verbose):
            make_demo(folder, log.say, log.progress)
    file = folder / CONFIGURED
    if not file.exists():  # else it is the user's, who may have changed it
        maker = f"aoti-serve demo --folder {shlex.quote(str(folder))}"
        file.write_text(demo_configuration(folder, file, maker))


def _traffic_command(url: str) -> str:
    return f"{program_called()} demo traffic" + ("" if url == DEFAULT_URL else f" --url {url}")
