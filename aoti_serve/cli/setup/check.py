"""`aoti-serve check`: all that would keep a configuration from starting, without starting anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.text import Text

from aoti_serve.cli.console import AsJson, as_pasted, error_facts, out, phases, print_json, progress_out, reports_errors
from aoti_serve.cli.server import METRICS_PORT, GrpcPortOption, HostOption, MetricsPortOption, PortOption
from aoti_serve.errors import AotiServeError, InvalidArguments, InvalidConfig, quantity
from aoti_serve.launcher.configuration.config_file import ConfigFile, read_config
from aoti_serve.token import read_token

if TYPE_CHECKING:
    from aoti_serve.model.package import Package


class Examined(NamedTuple):
    """What was found of a configuration, and what was not looked at."""

    errors: list[AotiServeError]
    packages: dict[str, Package]
    unchecked: list[str]
    warnings: list[str]


@reports_errors
def check_configuration(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A Serve configuration, as for `up`.")],
    host: HostOption = None,
    port: PortOption = None,
    grpc_port: GrpcPortOption = None,
    metrics_port: MetricsPortOption = METRICS_PORT,
    as_json: AsJson = False,
) -> None:
    """Say all that would keep CONFIG from starting on this machine now. Starts nothing, and changes nothing.

    Packages are read whole, weights by their headers, of a store the version that answers whole; ports, cores, memory,
    room on disks, tokens, certificates. Exit status 1 if something is wrong. A warning is not wrong: another server on
    the same store, no room for a new version.
    """
    with phases() as phase:
        phase(f"checking {config}")
        found = _examined(config, host, port, grpc_port, metrics_port, phase)
    if as_json:
        problems = [error_facts(error) for error in found.errors]
        more = {"warnings": found.warnings, "not_checked": found.unchecked}
        print_json({"ready": not problems, "problems": problems} | more)
    else:
        _show(config, found)
    if found.errors:
        sys.exit(1)


def _examined(
    path: Path,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
    metrics_port: int,
    phase: Callable[[str], None],
) -> Examined:
    packages: dict[str, Package] = {}
    try:
        config = read_config(path, host, port, grpc_port)
    except AotiServeError as error:  # what depends on it cannot be looked at
        later = ["packages, weights, ports, cores, memory, stores: mend this first"]
        return Examined(_apart(error), packages, later, [])
    from aoti_serve.launcher.configuration.checks import config_errors
    from aoti_serve.launcher.configuration.readiness import machine_errors, machine_warnings, unchecked

    errors = [*config_errors(config, packages), *_token_errors(config)]
    errors += machine_errors(config, packages, metrics_port, phase)
    phase("looking for other servers")
    warnings = list(machine_warnings(config, packages))
    apart = {str(error): error for error in errors}
    return Examined(list(apart.values()), packages, list(unchecked(config, packages)), warnings)


def _apart(error: AotiServeError) -> list[AotiServeError]:
    """All problems of a section, one by one."""
    if not isinstance(error, InvalidArguments):
        return [error]
    return [InvalidConfig(detail=f"{error.place}: {problem}") for problem in error.problems]


def _token_errors(config: ConfigFile) -> list[AotiServeError]:
    """This user's own token, where a gateway takes it."""
    if all(application.gateway.admin_tokens is not None for application in config.ours):
        return []
    try:
        read_token()
    except AotiServeError as error:
        return [error]
    return []


def _show(path: Path, found: Examined) -> None:
    for error in found.errors:
        progress_out.print(Text.assemble(("error: ", "bold red"), as_pasted(str(error))))
    for name, package in found.packages.items():
        constants = quantity(len(package.constants), "constants")
        out.print(f"model '{name}': {package.path.name}, for {package.device}, {constants}")
    for warning in found.warnings:
        progress_out.print(Text.assemble(("warning: ", "yellow"), warning))
    for what in found.unchecked:
        out.print(f"not checked: {what}")
    wrong = len(found.errors)
    out.print(f"{path}: " + (f"{wrong} problem{'s' * (wrong > 1)}" if wrong else "ready to start"))
