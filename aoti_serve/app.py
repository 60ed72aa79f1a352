"""The composition root: a configuration in, a Serve application out.

import_path: aoti_serve.app:build
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import RequestRouterConfig

from aoti_serve.cluster.coordinator import Coordinator
from aoti_serve.cluster.names import GATEWAY, coordinator_of, replicas_of
from aoti_serve.cluster.replica import ReplicaActor
from aoti_serve.config import AppConfig, GatewayConfig, ModelConfig, ScalingConfig, absolute, problems
from aoti_serve.errors import InvalidConfig
from aoti_serve.gateway.admin import token_digest
from aoti_serve.gateway.ingress import Gateway
from aoti_serve.gateway.placement import ServedModel
from aoti_serve.model.package import Package, configured_package
from aoti_serve.token import read_token

MANY_REQUESTS = 4096
GATEWAY_REQUESTS = 64
BY_ROWS = "aoti_serve.cluster.scaling:by_rows"
ROUTER = "aoti_serve.cluster.routing:FewestBatches"
# Seconds: a dead replica is seen soon, and a drained one ends soon.
LIFECYCLE: dict[str, Any] = {
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_wait_loop_s": 0.2,
}
# A line per request is an eighth of what a small one costs; `deployments:` switches it on again. At INFO Serve
# makes the line up all the same, and then drops it, which a gateway that answers thousands a second can do without.
QUIET = {"enable_access_log": False}
SILENT = QUIET | {"log_level": "WARNING"}


def build(args: dict[str, Any]) -> Application:
    """The application for `args`, the configuration's section of that name.

    Runs where Serve builds applications. Raises InvalidConfig, or a PackageError for a package that will not do.
    """
    try:
        config = AppConfig.model_validate(args)
    except ValidationError as error:
        raise InvalidConfig(detail=f"args: {problems(error.errors())}") from error
    fused = _fused(config)
    models = [_served(_located(model), config.gateway, _ingress_of(fused)) for model in config.models]
    token = read_token()
    bound = config.gateway, models, token_digest(token) if token else None
    return _deployment(serve.ingress()(Gateway)).options(**_ingress_options(config, fused, models)).bind(*bound)


def _deployment(cls: type) -> Deployment:
    made: Deployment = serve.deployment(cls)  # type: ignore[assignment]  # overloads that lose the class form
    return made


def _fused(config: AppConfig) -> ModelConfig | None:
    """The model whose replicas are the application's gateways, if there is one."""
    return next((model for model in config.models if model.placement == "fused"), None)


def _ingress_of(fused: ModelConfig | None) -> str:
    return replicas_of(fused.name) if fused else GATEWAY


def _ingress_options(config: AppConfig, fused: ModelConfig | None, models: list[ServedModel]) -> dict[str, Any]:
    """A gateway takes no core of Ray's; one that is a replica as well, what a replica takes."""
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": 0},
        **_scaling(config.gateway.replicas, GATEWAY_REQUESTS),
    }
    for model in models:
        if model.config.name == (fused and fused.name):
            options = _replica_options(model.config, model.replicas, policy=None)
    ours = {"name": _ingress_of(fused), "max_ongoing_requests": MANY_REQUESTS, "logging_config": SILENT}
    return options | ours | LIFECYCLE


def _served(config: ModelConfig, gateway: GatewayConfig, ingress: str) -> ServedModel:
    package = configured_package(config)
    coordinator = _deployment(Coordinator).options(
        name=coordinator_of(config.name),
        max_ongoing_requests=MANY_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        logging_config=QUIET,
        **LIFECYCLE,
    )
    members = tuple({replicas_of(config.name), ingress})
    bound = coordinator.bind(config, package.signature, package.carries_weights, members, gateway)
    if config.placement == "fused":
        return ServedModel(config, package.signature, bound, package)
    router = RequestRouterConfig.model_validate({"request_router_class": ROUTER})
    options = _replica_options(config, package) | {"request_router_config": router}
    replicas = _deployment(ReplicaActor).options(**options)
    served = replicas.bind(package, config.num_runners, config.previous == "keep", bound)
    return ServedModel(config, package.signature, bound, served)


def _replica_options(config: ModelConfig, package: Package, policy: str | None = BY_ROWS) -> dict[str, Any]:
    on_gpu = package.device == "cuda"
    full = config.num_runners * config.batching.max_batch_size
    return {
        "name": replicas_of(config.name),
        "ray_actor_options": {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": config.num_runners},
        "logging_config": QUIET,
        "max_ongoing_requests": 4 * config.num_runners + 16,
        **LIFECYCLE,
        **_scaling(config.replicas, full, policy),
    }


def _scaling(replicas: int | ScalingConfig, target: float, policy: str | None = None) -> dict[str, Any]:
    if not isinstance(replicas, ScalingConfig):
        return {"num_replicas": replicas}
    period = min(max(replicas.upscale_delay_s, 2.0), 30.0)  # who is to react quickly must not look back far
    found = {
        "look_back_period_s": period,
        "metrics_interval_s": period / 4,
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "target_ongoing_requests": replicas.target_ongoing_requests or target,
        "upscale_delay_s": replicas.upscale_delay_s,
        "downscale_delay_s": replicas.downscale_delay_s,
    }
    return {"autoscaling_config": found | ({"policy": {"policy_function": policy}} if policy else {})}


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
