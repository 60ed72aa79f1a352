"""The least resources of Ray's that an application needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoti_serve.cluster.names import replicas_of
from aoti_serve.config import ModelConfig, ScalingConfig
from aoti_serve.launcher.configuration.config_file import ConfigFile
from aoti_serve.model.package import Package
from aoti_serve.signature.devices import CUDA

UNITS = {"CPU": "CPU cores", "GPU": "GPUs"}


def shortage(config: ConfigFile, packages: Mapping[str, Package], there: Mapping[str, float]) -> str | None:
    """The reason why these resources cannot hold all replicas, in words; None if they can."""
    taken = dict.fromkeys(UNITS, 0.0)
    for application in config.ours:
        for model in application.config.models:
            options = application.deployments.get(replicas_of(model.name), {})
            count = _fewest(model, options)
            for unit, amount in _of_one(model, packages[model.name], options).items():
                taken[unit] += count * amount
    lacking = [
        f"{amount:g} {UNITS[unit]}, and Ray has {there.get(unit, 0):g}"
        for unit, amount in taken.items()
        if amount > there.get(unit, 0)
    ]
    return f"the models take {' and '.join(lacking)} (see `replicas` and `num_runners`)" if lacking else None


def _fewest(model: ModelConfig, options: Mapping[str, Any]) -> int:
    scaling = options.get("autoscaling_config")
    if isinstance(scaling, dict):
        return int(scaling.get("min_replicas", 1))
    configured = model.replicas.min if isinstance(model.replicas, ScalingConfig) else model.replicas
    count = options.get("num_replicas", configured)
    return count if isinstance(count, int) else 1


def _of_one(model: ModelConfig, package: Package, options: Mapping[str, Any]) -> dict[str, float]:
    """The resources of one replica. Serve's own section in the file overrides what we would ask for."""
    chosen = options.get("ray_actor_options")
    if isinstance(chosen, dict):
        return {"CPU": float(chosen.get("num_cpus", 1)), "GPU": float(chosen.get("num_gpus", 0))}
    return {"CPU": 1.0, "GPU": 1.0} if package.device == CUDA else {"CPU": float(model.num_runners)}
