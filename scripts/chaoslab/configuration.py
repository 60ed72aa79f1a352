"""What the lab serves: one model on replicas with logical GPUs, and gateways that die with the nodes they are on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chaoslab.model import NAME
from chaoslab.nodes import SEAT

# On a busy machine whoever is slow must not be taken for dead; but one that is stopped is replaced soon.
PATIENT = {"health_check_timeout_s": 10, "graceful_shutdown_timeout_s": 10}
QUICK = {"health_check_period_s": 1, "health_check_timeout_s": 3, "graceful_shutdown_timeout_s": 5}
SEATED = {"num_cpus": 0, "resources": {SEAT: 0.01}}


def configuration(model: dict[str, Any], gateway: dict[str, Any], replicas: int, gateways: int) -> dict[str, Any]:
    """A Serve configuration with so many replicas and gateways."""
    application = {"name": "default", "route_prefix": "/", "import_path": "aoti_serve.app:build"}
    args = {"models": [model], "gateway": gateway}
    return {"applications": [application | {"args": args, "deployments": _deployments(replicas, gateways)}]}


def model_entry(folder: Path, package: Path) -> dict[str, Any]:
    """The model's section; its store and its weights are in `folder`."""
    return {
        "name": NAME,
        "package": str(package),
        "weights": str(folder / "1.safetensors"),
        "store": str(folder / "versions"),
        "weights_roots": [str(folder)],
        "keep_versions": 30,
        "stage_timeout_s": 30,
        "commit_timeout_s": 3,
        "batching": {"max_queue_wait_ms": None},  # also while every replica is stopped, or dead, nothing is lost
    }


def _deployments(replicas: int, gateways: int) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{NAME}-replica",
            "num_replicas": replicas,
            "ray_actor_options": {"num_gpus": 1, "num_cpus": 0},
            "max_surge_percent": 100,
            **PATIENT,
        },
        {"name": f"{NAME}-coordinator", "ray_actor_options": SEATED, **QUICK},
        {"name": "gateway", "num_replicas": gateways, "ray_actor_options": SEATED, **PATIENT},
    ]
