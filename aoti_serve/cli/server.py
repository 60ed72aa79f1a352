"""`aoti-serve up`, `down` and `token`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from aoti_serve.cli.client import DEFAULT_URL
from aoti_serve.cli.config_file import read_config
from aoti_serve.cli.console import AsJson, out, print_json, progress_out, reports_errors
from aoti_serve.cli.launch import Server
from aoti_serve.cli.reach import exposures, ports_table
from aoti_serve.cli.settings import ray_variables
from aoti_serve.cli.stop import Stop
from aoti_serve.config import ModelConfig
from aoti_serve.token import ensure_token, token_path

Address = Annotated[str | None, typer.Option(help="Join this Ray cluster ('auto', or host:port); none: start one.")]

DrainSeconds = Annotated[float, typer.Option(min=0, help="How long answers in flight may take at the end.")]


@reports_errors
def up(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A Serve configuration, as for `serve run`.")],
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The HTTP port.")] = 8000,
    fast: Annotated[bool, typer.Option(help="Use Ray's HAProxy ingress and throughput settings.")] = True,
    address: Address = None,
    drain_seconds: DrainSeconds = 30.0,
    as_json: AsJson = False,
) -> None:
    """Serve CONFIG; until Ctrl-C, SIGTERM or SIGHUP, or, on a cluster that was joined, until `aoti-serve down`.

    From then on new requests get a 503, and those in flight are answered; a second signal ends it at once.
    With --address the cluster's own settings hold: whether its ingress is fast was decided when it was started.
    """
    files = read_config(config)
    ensure_token()
    stop = Stop()
    fast = fast and address is None
    server = Server(files, stop, host=host, port=port, fast=fast, address=address, drain_s=drain_seconds)
    with server.running():
        if stop.asked:
            return
        if as_json:
            print_json(_facts(server))
        else:
            _say_ready(server, files.models)
        if address is not None:
            server.leave_running()
            progress_out.print(f"It stays up; take it down with `aoti-serve down --address {address}`.")
            return
        server.watch()
        progress_out.print(
            f"stopping: answers in flight are finished first, for {drain_seconds:g} s; once more ends it at once"
        )


@reports_errors
def down(
    address: Annotated[str, typer.Option(help="The Ray cluster; 'auto' is the one running on this machine.")] = "auto",
    app: Annotated[str, typer.Option(help="The Serve application.")] = "default",
    drain_seconds: DrainSeconds = 30.0,
) -> None:
    """Take an application down that `up` or `serve run` has started; a foreground `up` then ends.

    New requests get a 503, and those in flight are answered first.
    """
    from aoti_serve.cli.launch import delete_application

    delete_application(address, app, drain_seconds)
    out.print(f"application '{app}' is down")


@reports_errors
def token() -> None:
    """Make the admin token if there is none, and say where it is kept."""
    ensure_token()
    out.print(f"the admin token is in {token_path()}; servers that start from now on accept it")


def _say_ready(server: Server, models: list[ModelConfig]) -> None:
    out.print(Text.assemble(("\nready", "bold green"), f"  {server.url}/v2   (Ray dashboard: {server.dashboard})"))
    out.print(f"metrics for Prometheus: {server.metrics}")
    out.print(f"from Python: {ray_variables(server.ray)}")
    if server.address is None:
        _say_ports(server)
    if models:
        out.print("\nIn another terminal, infer, swap, status:\n")
        for command in _commands(server, models[0]):
            out.print(f"  {command}")
        out.print()


def _say_ports(server: Server) -> None:
    found = server.listening()
    progress_out.print(ports_table(found))
    for warning in exposures(found, server.port):
        progress_out.print(Text.assemble(("note: ", "yellow"), warning))


def _facts(server: Server) -> dict[str, Any]:
    return {
        "url": server.url,
        "dashboard": server.dashboard,
        "metrics": server.metrics,
        "ray_address": server.ray,
        "listening": [entry._asdict() | {"public": entry.public} for entry in server.listening()],
    }


def _commands(server: Server, model: ModelConfig) -> list[str]:
    """Three commands to paste; they name files that lie beside the package where there are any."""
    example = model.package.with_suffix(".example.json")
    infer = f"curl -s {server.url}/v2/models/{model.name}"
    if example.exists():
        infer += f"/infer -d @{example}"
    others = [path for path in sorted(model.package.parent.glob("*.safetensors")) if path != model.weights]
    program = os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).is_file() else "aoti-serve"
    url = "" if server.url == DEFAULT_URL else f" --url {server.url}"
    weights = others[0] if len(others) == 1 else "<weights.safetensors>"
    return [infer, f"{program} swap{url} {model.name} {weights}", f"{program} status{url}"]
