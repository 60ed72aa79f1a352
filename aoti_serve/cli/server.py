"""`aoti-serve up`, `down` and `token`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from aoti_serve.cli.client import DEFAULT_URL
from aoti_serve.cli.config_file import read_config
from aoti_serve.cli.console import out, progress_out, reports_errors
from aoti_serve.cli.launch import Server
from aoti_serve.config import ModelConfig
from aoti_serve.token import ensure_token, token_path

Address = Annotated[str | None, typer.Option(help="Join this Ray cluster ('auto', or host:port); none: start one.")]


@reports_errors
def up(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A Serve configuration, as for `serve run`.")],
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The HTTP port.")] = 8000,
    fast: Annotated[bool, typer.Option(help="Use Ray's HAProxy ingress and throughput settings.")] = True,
    address: Address = None,
) -> None:
    """Serve CONFIG; until Ctrl-C or SIGTERM, or, on a cluster that was joined, until `aoti-serve down`.

    With --address the cluster's own settings hold: whether its ingress is fast was decided when it was started.
    """
    files = read_config(config)
    ensure_token()
    stop = threading.Event()
    server = Server(files, host=host, port=port, fast=fast and address is None, address=address)
    with server.running(stop):
        if stop.is_set():
            return
        _say_ready(server, files.models)
        if address is not None:
            server.leave_running()
            out.print(f"It stays up; take it down with `aoti-serve down --address {address}`.")
            return
        server.watch(stop)
        progress_out.print("stopping: answers in flight are finished first")


@reports_errors
def down(
    address: Annotated[str, typer.Option(help="The Ray cluster; 'auto' is the one running on this machine.")] = "auto",
    app: Annotated[str, typer.Option(help="The Serve application.")] = "default",
) -> None:
    """Take an application down that `up` or `serve run` has started; a foreground `up` then ends."""
    from aoti_serve.cli.launch import delete_application

    delete_application(address, app)
    out.print(f"application '{app}' is down")


@reports_errors
def token() -> None:
    """Make the admin token if there is none, and say where it is kept."""
    ensure_token()
    out.print(f"the admin token is in {token_path()}; servers that start from now on accept it")


def _say_ready(server: Server, models: list[ModelConfig]) -> None:
    out.print(Text.assemble(("\nready", "bold green"), f"  {server.url}/v2   (Ray dashboard: {server.dashboard})"))
    out.print(f"metrics for Prometheus: {server.metrics}")
    out.print(f"from Python: RAY_AUTH_MODE=token RAY_ADDRESS={server.ray}")
    for warning in server.exposures():
        progress_out.print(Text.assemble(("note: ", "yellow"), warning))
    if models:
        out.print("\nIn another terminal, infer, swap, status:\n")
        for command in _commands(server, models[0]):
            out.print(f"  {command}")
        out.print()


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
