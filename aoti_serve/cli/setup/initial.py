"""`aoti-serve init`: a first configuration, commented, for packages that are there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from aoti_serve.cli.console import out, program_called, progress_out, reports_errors
from aoti_serve.errors import InvalidConfig
from aoti_serve.model.package import Package

BEGINNING = """\
# Made by `aoti-serve init`. Check it with `aoti-serve check {file}`, serve it with `aoti-serve up {file}`.
# Lines that begin with `# ` and a key are defaults; take the mark away to change them.
proxy_location: Disabled # the gateways listen themselves
applications:
  - name: default
    import_path: aoti_serve.app:build
    args:
      gateway:
        host: 127.0.0.1 # 0.0.0.0: other machines reach it as well
        http_port: 8000
        grpc_port: 8001 # null: no gRPC
        # replicas: 1 # gateways; several share the port
        # tls: {{ certificate: server.pem, key: server-key.pem }}
        # admin_tokens: admin.tokens # a file; without it the token of your user, `aoti-serve token`
        # inference_tokens: clients.tokens # without it everybody may ask
        # access_log: 0.0 # the share of requests that get a line
      models:
"""
MODEL = """\
        - name: {name}
          package: {package}
          {weights}
          {store} # where versions are kept
          # weights_roots: [] # folders and URIs that swaps by --uri may read
          # keep_versions: 8
          # num_runners: 1 # runs at the same time in a replica
          # replicas: 1 # or {{ min: 1, max: 4 }}; each takes a GPU, or as many cores as it has runners
          # batching: {{ max_batch_size: 256, max_queue_delay_ms: 0, max_queued_rows: 4096 }}
"""
WEIGHTS = "weights: {} # the first version; later the last one that was committed answers"
OWN_WEIGHTS = "# weights: first.safetensors # the first version; without it the package's own weights answer"


@reports_errors
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="What to write.")] = Path("model.yaml"),
    package: Annotated[
        list[Path] | None, typer.Option(help="A package to serve; more than once for several. They are opened.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write it even if there is a file already.")] = False,
) -> None:
    """Write a commented configuration for `up`: the keys that matter first, with their defaults.

    A model is called as its package; its first weights are the safetensors file of that name beside it, if there is
    one. Without --package the file has a model of the name `model`, to be filled in.
    """
    if file.exists() and not force:
        raise InvalidConfig(detail=f"{file} is there already; choose another name, or write over it with --force")
    models = [_model_of(path) for path in package or ()] or [_model("model", "model.pt2", "model.safetensors")]
    try:
        file.write_text(BEGINNING.format(file=file) + "".join(models))
    except OSError as error:
        raise InvalidConfig(detail=f"{file}: cannot be written: {error.strerror}") from error
    out.print(f"written: {file}")
    out.print(f"next: {program_called()} check {shlex.quote(str(file))}")


def _model_of(path: Path) -> str:
    found = Package.open(path)
    beside = path.with_suffix(".safetensors")
    if not found.carries_weights and not beside.exists():
        progress_out.print(f"note: there is no {beside}: name the first `weights` of '{path.stem}' in the file")
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem)
    return _model(name, str(path), str(beside) if beside.exists() or not found.carries_weights else None)


def _model(name: str, package: str, weights: str | None) -> str:
    return MODEL.format(
        name=json.dumps(name),
        package=json.dumps(package),
        weights=OWN_WEIGHTS if weights is None else WEIGHTS.format(json.dumps(weights)),
        store=f"store: {json.dumps(str(Path(package).with_suffix('.versions')))}",
    )
