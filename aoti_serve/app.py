"""The composition root: a configuration in, a Serve application out.

import_path: aoti_serve.app:build
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.serve import Application, Deployment

from aoti_serve.cluster.coordinator import Coordinator
from aoti_serve.cluster.names import GATEWAY, coordinator_of, replicas_of
from aoti_serve.cluster.replica import Replica
from aoti_serve.config import AppConfig, GatewayConfig, ModelConfig, ScalingConfig, absolute, problems
from aoti_serve.errors import InvalidConfig
from aoti_serve.gateway.admin import token_digest
from aoti_serve.gateway.ingress import Gateway, ServedModel
from aoti_serve.model.package import Package, configured_package
from aoti_serve.token import read_token

MANY_REQUESTS = 4096
# Seconds: a dead replica is seen soon, and a drained one ends soon.
LIFECYCLE: dict[str, Any] = {
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_wait_loop_s": 0.2,
}
# Members call all the time, and gateways log each request already.
QUIET = {"enable_access_log": False}


def build(args: dict[str, Any]) -> Application:
    """The application for `args`, the configuration's section of that name.

    Runs where Serve builds applications. Raises InvalidConfig, or a PackageError for a package that will not do.
    """
    try:
        config = AppConfig.model_validate(args)
    except ValidationError as error:
        raise InvalidConfig(detail=f"args: {problems(error.errors())}") from error
    models = [_served(_located(model), config.gateway) for model in config.models]
    token = read_token()
    gateway = _deployment(serve.ingress()(Gateway)).options(
        name=GATEWAY,
        num_replicas=config.gateway.replicas,
        max_ongoing_requests=MANY_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        **LIFECYCLE,
    )
    return gateway.bind(config.gateway, models, token_digest(token) if token else None)


def _deployment(cls: type) -> Deployment:
    made: Deployment = serve.deployment(cls)  # type: ignore[assignment]  # overloads that lose the class form
    return made


def _served(config: ModelConfig, gateway: GatewayConfig) -> ServedModel:
    package = configured_package(config)
    coordinator = _deployment(Coordinator).options(
        name=coordinator_of(config.name),
        max_ongoing_requests=MANY_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        logging_config=QUIET,
        **LIFECYCLE,
    )
    members = (replicas_of(config.name), GATEWAY)
    bound = coordinator.bind(config, package.signature, package.carries_weights, members, gateway)
    replicas = _deployment(Replica).options(name=replicas_of(config.name), **_replica_options(config, package))
    served = replicas.bind(package, config.num_runners, config.previous == "keep", bound)
    return ServedModel(config, package.signature, served, bound)


def _replica_options(config: ModelConfig, package: Package) -> dict[str, Any]:
    on_gpu = package.device == "cuda"
    options: dict[str, Any] = {
        "ray_actor_options": {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": config.num_runners},
        "logging_config": QUIET,
        "max_ongoing_requests": 4 * config.num_runners + 16,
        **LIFECYCLE,
    }
    if isinstance(config.replicas, ScalingConfig):
        options["autoscaling_config"] = {
            "min_replicas": config.replicas.min,
            "max_replicas": config.replicas.max,
            "target_ongoing_requests": config.replicas.target_ongoing_requests,
        }
    else:
        options["num_replicas"] = config.replicas
    return options


def _located(config: ModelConfig) -> ModelConfig:
    """With absolute paths: replicas may start in another folder."""
    return config.model_copy(
        update={
            "package": config.package.resolve(),
            "weights": config.weights and config.weights.resolve(),
            "store": config.store_root,
            "weights_roots": tuple(absolute(root) for root in config.weights_roots),
        }
    )
