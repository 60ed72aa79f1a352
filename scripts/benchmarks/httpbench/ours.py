"""Our server, as a user starts it."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from httpbench.contenders import GRPC, GRPC_PATH, HTTP, OURS, V2_PATH, Contender, Endpoint
from httpbench.loads import BATCH, BUSY, Load
from httpbench.servers import Server, free_port

TOKEN = "AOTI_SERVE_ADMIN_TOKEN"


class Model(NamedTuple):
    """A compiled package and its weights; `name` is what clients call it, `more` other keys of its entry."""

    package: Path
    weights: Path
    num_runners: int = 1
    max_batch_size: int = BATCH
    max_queue_wait_ms: int = 500
    name: str = "mlp"
    more: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def of(cls, folder: Path, name: str) -> Model:
        """Of what `models.compiled` has put there under this name."""
        return cls(folder / f"{name}.pt2", folder / f"{name}.safetensors")


def contenders(model: Model, loads: Sequence[Load], *, more: bool) -> list[Contender]:
    """One gateway, over HTTP and gRPC; and, with `more`, its JSON and what a second gateway makes of the same."""
    grpc_port = free_port()
    one = (Endpoint(OURS, V2_PATH, "v2", tuple(loads)), *_by_h2load(grpc_port))
    if not more:
        return [Contender(server(OURS, model, grpc_port=grpc_port), one)]
    as_json = Endpoint(f"{OURS}, JSON", V2_PATH, "json", (BUSY,))
    two = Endpoint(f"{OURS}, 2 gateways", V2_PATH, "v2", tuple(loads))
    return [
        Contender(server(OURS, model, grpc_port=grpc_port), (*one, as_json)),
        Contender(server(f"{OURS}-2", model, gateways=2), (two,)),
    ]


def _by_h2load(grpc_port: int) -> tuple[Endpoint, ...]:
    """gRPC, and HTTP by the client that asks it: wrk, which knows no HTTP/2, costs the machine less."""
    http = Endpoint(HTTP, V2_PATH, "v2", client="h2load")
    return http, Endpoint(GRPC, GRPC_PATH, "grpc", port=grpc_port, client="h2load")


def server(name: str, *models: Model, gateways: int = 1, grpc_port: int | None = None) -> Server:
    """`aoti-serve up` with these models behind so many gateways, and every other key at its default."""
    folder = models[0].package.parent

    def command(port: int) -> list[str]:
        config = folder / f"{name}.yaml"
        config.write_text(
            yaml.safe_dump(
                _config(name, models, {"http_port": port, "grpc_port": grpc_port, "replicas": gateways}, folder)
            )
        )
        return [sys.executable, "-m", "aoti_serve", "up", str(config)]

    return Server(name, command, {TOKEN: secrets.token_hex(32)}, folder)


def _config(name: str, models: Sequence[Model], gateway: dict[str, Any], folder: Path) -> dict[str, Any]:
    entries = [_entry(model, folder / f"{name}-{model.name}.versions") for model in models]
    arguments = {"gateway": gateway, "models": entries}
    application = {"name": "default", "import_path": "aoti_serve.app:build", "args": arguments}
    return {"proxy_location": "Disabled", "applications": [application]}


def _entry(model: Model, store: Path) -> dict[str, Any]:
    batching = {"max_batch_size": model.max_batch_size, "max_queue_wait_ms": model.max_queue_wait_ms}
    return {
        "name": model.name,
        "package": str(model.package),
        "weights": str(model.weights),
        "store": str(store),
        "num_runners": model.num_runners,
        "batching": batching,
        **model.more,
    }
