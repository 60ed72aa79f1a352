"""`aoti-serve up`, `down` and `token`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.text import Text

from aoti_serve.cli.client import DEFAULT_URL, URL_VARIABLE
from aoti_serve.cli.commands import commands
from aoti_serve.cli.console import (
    AsJson,
    Terminal,
    as_pasted,
    out,
    print_json,
    progress_out,
    reported_errors,
    reports_errors,
)
from aoti_serve.cli.port_table import exposure_of, ports_table
from aoti_serve.launcher.cluster.connection import ray_variables
from aoti_serve.launcher.cluster.discovery import cluster_at
from aoti_serve.launcher.configuration.config_file import read_config
from aoti_serve.launcher.processes.background import leave
from aoti_serve.launcher.processes.stop_request import StopRequest
from aoti_serve.token import ensure_token, token_place

if TYPE_CHECKING:
    from aoti_serve.launcher.processes.ports import ListeningPort
    from aoti_serve.launcher.server import Server  # imports Ray, which takes seconds
    from aoti_serve.model.package import Package

AddressOption = Annotated[
    str | None, typer.Option(help="Join this Ray cluster ('auto', or host:port); none: start one.")
]
HostOption = Annotated[str | None, typer.Option(help="Where gateways listen, in place of the file's `gateway.host`.")]
PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="In place of the file's `gateway.http_port`.")]
GrpcPortOption = Annotated[
    int | None, typer.Option(min=1, max=65535, help="In place of the file's `gateway.grpc_port`.")
]
MetricsPortOption = Annotated[
    int, typer.Option(min=0, max=65535, help="Where a new cluster shows its metrics to Prometheus; 0: at any port.")
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Put it in the place of another application of its name.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show what Ray, Serve and torch say as well.")]
DrainSecondsOption = Annotated[float, typer.Option(min=0, help="How long answers in flight may take at the end.")]

METRICS_PORT = 8002  # Triton's, beside 8000 and 8001; Ray itself would choose another at each start
SECOND_SIGNAL_HINT = "once more ends it at once"


@reports_errors
def up(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A Serve configuration, as for `serve run`.")],
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
    """Serve CONFIG until Ctrl-C, SIGTERM or SIGHUP; on a cluster that was joined, until `aoti-serve down`.

    Then new requests get a 503, and those in flight are answered. A second signal ends it at once. With --address, the
    other applications of that cluster stay as they are.
    """
    serve_file(
        config,
        host=host,
        port=port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        address=address,
        replace=replace,
        drain_seconds=drain_seconds,
        verbose=verbose,
        as_json=as_json,
    )


def serve_file(
    config: Path,
    *,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
    metrics_port: int,
    address: str | None,
    replace: bool,
    drain_seconds: float,
    verbose: bool,
    as_json: bool,
    more: Callable[[str], str] | None = None,
) -> None:
    """Serve a configuration file as `up` does. `more` makes one more command to paste of the server's URL."""
    with Terminal() as log:
        log.passing(f"checking {config}")
        cluster = cluster_at(address) if address is not None else None  # before Ray is imported: it reads its settings
        files = read_config(config, host, port, grpc_port)
        from aoti_serve.launcher.configuration.checks import check_config

        packages = check_config(files)
        if any(application.gateway.admin_tokens is None for application in files.ours):
            ensure_token()
        log.passing("importing Ray")
        from aoti_serve.launcher.server import Server

        stop = StopRequest()
        stop.catch()
        server = Server(
            files,
            packages,
            stop,
            log,
            cluster=cluster,
            drain_s=drain_seconds,
            metrics_port=metrics_port,
            replace=replace,
            verbose=verbose,
        )
        # `leave`: Ray's own exit would wait for a cluster that is gone.
        with reported_errors(as_json, leave), server.running():
            log.rest()
            if as_json:
                print_json(_facts_of(server))
            else:
                _say_ready(server, packages, more)
            if address is not None:
                out.print(f"It stays up; take it down with {_down(server, address)}.")
                return
            if not as_json:
                out.print("Ctrl-C takes it down again.")
            server.watch()
            log.say(f"stopping: answers in flight are finished first, for {drain_seconds:g} s; {SECOND_SIGNAL_HINT}")


@reports_errors
def down(
    address: Annotated[
        str, typer.Option(help="The Ray cluster, host:port; 'auto' is the only one on this machine.")
    ] = "auto",
    app: Annotated[str, typer.Option(help="The Serve application.")] = "default",
    drain_seconds: DrainSecondsOption = 30.0,
) -> None:
    """Take down an application that `up` or `serve run` has started. A foreground `up` then ends.

    New requests get a 503, and those in flight are answered first.
    """
    cluster = cluster_at(address)
    from aoti_serve.launcher.down import take_down

    with Terminal() as log, reported_errors(False, leave):
        take_down(cluster, app, drain_seconds, log)
    out.print(f"application '{app}' is down")
    leave(0)


@reports_errors
def token() -> None:
    """Make the admin token if there is none, and print where it is kept."""
    ensure_token()
    out.print(f"the admin token is in {token_place()}; servers that start from now on accept it")


def _say_ready(server: Server, packages: Mapping[str, Package], more: Callable[[str], str] | None) -> None:
    """First what is needed first: what to paste. Then where else something listens."""
    ports = [] if server.joined else server.listening()
    where = "".join(f"  {endpoint.url}/v2" for endpoint in server.endpoints)
    out.print(Text.assemble(("\nready", "bold green"), where))
    _say_commands(server, packages, more)
    out.print(f"Ray's dashboard: {server.dashboard}")
    out.print(f"metrics for Prometheus: {server.metrics}")
    out.print(f"logs, on each node: {server.logs}")
    out.print(f"to join, for Python, `serve` and `ray`:\n  {ray_variables(server.ray, token=server.token)}\n")
    if ports:
        _say_ports(server, ports)


def _say_commands(server: Server, packages: Mapping[str, Package], more: Callable[[str], str] | None) -> None:
    if not server.endpoints:
        return
    first = server.endpoints[0]
    config = server.config.ours[0].config
    model, asks = config.models[0], config.gateway.inference_tokens is not None
    found = commands(first.url, first.certificate, model, packages[model.name], asks_token=asks)
    out.print("\nIn another terminal, in this folder:\n")
    for command in [*found, *([more(first.url)] if more else [])]:
        out.print(f"  {command}")
    if first.url != DEFAULT_URL:
        out.print(f"\nOther commands find it with --url, or with\n\n  export {URL_VARIABLE}={first.url}")
    out.print()


def _say_ports(server: Server, found: Sequence[ListeningPort]) -> None:
    progress_out.print(ports_table(found), soft_wrap=not progress_out.is_terminal)
    asked = [urlsplit(endpoint.url).port or 0 for endpoint in server.endpoints]
    if warning := exposure_of(found, asked, token=server.token):
        progress_out.print(Text.assemble(("\nnote: ", "yellow"), warning, "\n"), soft_wrap=not progress_out.is_terminal)


def _facts_of(server: Server) -> dict[str, object]:
    listening = [] if server.joined else server.listening()
    return {
        "url": server.endpoints[0].url if server.endpoints else None,
        "urls": {endpoint.application: endpoint.url for endpoint in server.endpoints},
        "dashboard": server.dashboard,
        "metrics": server.metrics,
        "logs": server.logs,
        "ray_address": server.ray,
        "ray_asks_for_token": server.token,
        "listening": [entry._asdict() | {"public": entry.public} for entry in listening],
    }


def _down(server: Server, address: str) -> str:
    names = server.config.names
    app = "" if names == ["default"] else f" --app {names[0]}"
    return as_pasted(f"`aoti-serve down --address {address}{app}`")
