"""The composition root: a configuration in, a Serve application out.

import_path: aoti_serve.app:build
"""

from __future__ import annotations

import secrets
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.serve import Application, Deployment

from aoti_serve.cluster.coordinator.actor import Coordinator
from aoti_serve.cluster.deployments import GATEWAY, coordinator_of, processor_of, replicas_of, resources_of
from aoti_serve.cluster.processor.actor import ProcessorActor
from aoti_serve.cluster.replica.actor import ReplicaActor
from aoti_serve.config import AppConfig, GatewayConfig, ModelConfig, ScalingConfig, WeightsLimits
from aoti_serve.errors import InvalidConfig, problems
from aoti_serve.gateway.deployment import Gateway, ModelBinding
from aoti_serve.model.package import Package, configured_package
from aoti_serve.processor.declared import Declared, declared
from aoti_serve.signature.signature import Signature
from aoti_serve.token import TokenSet, read_token
from aoti_serve.weights.rollout.plan import checked_plan

MANY_REQUESTS = 4096
GATEWAY_REQUESTS = 64
BY_LOAD = "aoti_serve.cluster.scaling:by_load"
# Seconds: a dead replica is seen soon, and a drained one ends soon.
LIFECYCLE: dict[str, Any] = {
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_wait_loop_s": 0.2,
}
# Seconds for requests in hand. Replicas get more, since gateways need them for their own.
GATEWAY_LEAVES_S, REPLICA_LEAVES_S = 40.0, 50.0


def build(args: dict[str, Any]) -> Application:
    """The application for `args`, the configuration's section of that name.

    Runs where Serve builds applications. Raises InvalidConfig, or a PackageError for a package that will not do.
    """
    try:
        config = AppConfig.model_validate(args)
    except ValidationError as error:
        raise InvalidConfig(detail=f"args: {problems(error.errors(), AppConfig)}") from error
    models = [_served(model, config.gateway) for model in config.models]
    bound = config.gateway, models, _own_token(config.gateway)
    return _deployment(serve.ingress()(Gateway)).options(**_gateway_options(config.gateway)).bind(*bound)


def _own_token(config: GatewayConfig) -> TokenSet:
    """The admin token of the user who builds this; none if there are others instead."""
    token = read_token() if config.admin_tokens is None else None
    return TokenSet(secrets.token_bytes(16), {token: ""} if token else {})


def _deployment(cls: type) -> Deployment:
    made: Deployment = serve.deployment(cls)  # type: ignore[assignment]  # overloads that lose the class form
    return made


def _gateway_options(config: GatewayConfig) -> dict[str, Any]:
    """A gateway takes no core of Ray's."""
    return {
        "name": GATEWAY,
        "ray_actor_options": {"num_cpus": 0},
        "max_ongoing_requests": MANY_REQUESTS,
        "graceful_shutdown_timeout_s": GATEWAY_LEAVES_S,
        "max_surge_percent": 100,  # in an update the next one listens before this one leaves
        **LIFECYCLE,
        **_scaling(config.replicas, GATEWAY_REQUESTS),
    }


def _served(config: ModelConfig, gateway: GatewayConfig) -> ModelBinding:
    package = configured_package(config)
    if config.rollout is not None:
        checked_plan(config.rollout, f"model '{config.name}': rollout")
    coordinator = _deployment(Coordinator).options(
        name=coordinator_of(config.name),
        max_ongoing_requests=MANY_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        **LIFECYCLE,
    )
    follows = (processor_of(config.name),) if config.processor and config.processor.assets else ()
    members = (replicas_of(config.name), GATEWAY, *follows)
    limits = WeightsLimits.model_validate(gateway.model_dump(include=set(WeightsLimits.model_fields)))
    bound = coordinator.bind(config, package.signature, package.carries_weights, members, limits)
    replicas = _deployment(ReplicaActor).options(**_replica_options(config, package))
    keeps = config.previous == "keep"
    served = replicas.bind(config.name, package, config.num_runners, keeps, config.commit_timeout_s, bound)
    return ModelBinding(config, package.signature, bound, served, *_processors(config, package.signature, bound))


def _processors(config: ModelConfig, signature: Signature, coordinator: Any) -> tuple[Any, Declared | None]:
    """A processor takes no core of Ray's, as a gateway, unless `deployments:` says so. It follows the coordinator if it
    reads files that belong to versions.
    """
    if config.processor is None:
        return None, None
    options: dict[str, Any] = {
        "name": processor_of(config.name),
        "num_replicas": config.processor.replicas,
        "ray_actor_options": {"num_cpus": 0},
        "graceful_shutdown_timeout_s": REPLICA_LEAVES_S,
        **LIFECYCLE,
    }
    declaration = declared(config.processor, config.name, signature)
    follows = coordinator if config.processor.assets else None
    return _deployment(ProcessorActor).options(**options).bind(config.name, config.processor, follows), declaration


def _replica_options(config: ModelConfig, package: Package) -> dict[str, Any]:
    full = config.num_runners * config.batching.max_batch_size
    return {
        "name": replicas_of(config.name),
        "ray_actor_options": resources_of(package.device, config.num_runners),
        "graceful_shutdown_timeout_s": REPLICA_LEAVES_S,
        **LIFECYCLE,
        **_scaling(config.replicas, full),
    }


def _scaling(replicas: int | ScalingConfig, target: float) -> dict[str, Any]:
    if not isinstance(replicas, ScalingConfig):
        return {"num_replicas": replicas}
    period = min(max(replicas.upscale_delay_s, 2.0), 30.0)  # for a quick reaction only the last seconds count
    config = {
        "look_back_period_s": period,
        "metrics_interval_s": period / 4,
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "target_ongoing_requests": replicas.target_ongoing_requests or target,
        "upscale_delay_s": replicas.upscale_delay_s,
        "downscale_delay_s": replicas.downscale_delay_s,
        "policy": {"policy_function": BY_LOAD},
    }
    return {"autoscaling_config": config}
