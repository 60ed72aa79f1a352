"""Whether a machine or a cluster holds what a configuration asks for: cores, GPUs, memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aoti_serve.cluster.deployments import replicas_of, resources_of
from aoti_serve.config import ModelConfig, ScalingConfig
from aoti_serve.launcher.configuration.config_file import ConfigFile
from aoti_serve.model.package import Package
from aoti_serve.signature.tensors import CPU

UNITS = {"CPU": "CPU cores", "GPU": "GPUs"}
MODELS_SHOWN = 3


def shortage(config: ConfigFile, packages: Mapping[str, Package], there: Mapping[str, float]) -> str | None:
    """The reason why these resources cannot hold all replicas, in words; None if they can."""
    taken: dict[str, dict[str, float]] = {unit: {} for unit in UNITS}
    for model, count, options in _replicas(config):
        if model.name in packages:
            for unit, amount in _of_one(model, packages[model.name], options).items():
                taken[unit][model.name] = taken[unit].get(model.name, 0.0) + count * amount
    lacking = [
        f"{sum(by_model.values()):g} {UNITS[unit]} ({_by_model(by_model)}), and Ray has {there.get(unit, 0):g}"
        for unit, by_model in taken.items()
        if sum(by_model.values()) > there.get(unit, 0)
    ]
    return f"the models take {' and '.join(lacking)} (see `replicas` and `num_runners`)" if lacking else None


def _by_model(taken: Mapping[str, float]) -> str:
    most = sorted(taken.items(), key=lambda entry: -entry[1])
    more = f", and {len(most) - MODELS_SHOWN} more models" if len(most) > MODELS_SHOWN else ""
    return ", ".join(f"'{name}' {amount:g}" for name, amount in most[:MODELS_SHOWN]) + more


def weights_bytes(config: ConfigFile, packages: Mapping[str, Package]) -> int:
    """What the weights of all replicas on CPUs occupy once a second version is there. Package files come on top.

    A container holds the version that answers and the one that is staged, or kept for a rollback; with `previous:
    release` the second is there only while a swap goes on.
    """
    return sum(
        2 * count * sum(constant.nbytes for constant in packages[model.name].constants)
        for model, count, _ in _replicas(config)
        if model.name in packages and packages[model.name].device == CPU
    )


def _replicas(config: ConfigFile) -> Iterator[tuple[ModelConfig, int, Mapping[str, Any]]]:
    """Each model with the fewest replicas that it can have, and Serve's own options for them."""
    for application in config.ours:
        for model in application.config.models:
            options = application.deployments.get(replicas_of(model.name), {})
            yield model, _fewest(model, options), options


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
    asked = chosen if isinstance(chosen, dict) else resources_of(package.device, model.num_runners)
    return {"CPU": float(asked.get("num_cpus", 1)), "GPU": float(asked.get("num_gpus", 0))}
