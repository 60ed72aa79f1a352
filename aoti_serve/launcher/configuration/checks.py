"""Checks that find in seconds why a configuration could never serve; Ray would take minutes to fail."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aoti_serve.cluster.deployments import GATEWAY, coordinator_of, processor_of, replicas_of, resources_of
from aoti_serve.config import NO_WEIGHTS, ModelConfig, ScalingConfig
from aoti_serve.errors import AotiServeError, InvalidConfig, InvalidWeights, WrongNameRule, problems
from aoti_serve.launcher.configuration.config_file import BUILDER, DISABLED, ConfigFile, Ours
from aoti_serve.launcher.processes.ports import hosts_overlap
from aoti_serve.model.package import Package, configured_package
from aoti_serve.processor.declared import declared
from aoti_serve.token import read_tokens
from aoti_serve.weights.files.cast import read_spans
from aoti_serve.weights.files.checkpoint import checkpoint_spans
from aoti_serve.weights.files.naming import check_rules
from aoti_serve.weights.rollout.plan import checked_plan
from aoti_serve.weights.sources.uri import is_uri
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.version import BUILT_IN

UNITS = {"CPU": "CPU cores", "GPU": "GPUs"}
TWO_WAYS_OUT = (
    "write `proxy_location: Disabled` at the top of the file, or give the gateway another `http_port` or null"
)


def check_config(config: ConfigFile) -> dict[str, Package]:
    """Check the whole configuration. Returns the packages of all models, by name.

    Raises InvalidConfig or a PackageError. Needs no running Ray, only its schema.
    """
    for problem in chain.from_iterable(find(config) for find in PROBLEMS):
        raise InvalidConfig(detail=f"{config.path}: {problem}")
    _check_schema(config)
    packages = {model.name: _open_package(config.path, model) for model in config.models}
    _check_processors(config, packages)
    return packages


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


def deployments_of(application: Ours) -> list[str]:
    """The names that Serve will give to the deployments of an application."""
    models = [model.name for model in application.config.models]
    processors = [processor_of(model.name) for model in application.config.models if model.processor]
    return [GATEWAY, *map(coordinator_of, models), *map(replicas_of, models), *processors]


def _check_processors(config: ConfigFile, packages: Mapping[str, Package]) -> None:
    """Not where a `runtime_env` may bring the classes: this process is not in it."""
    if any(application.get("runtime_env") for application in config.content["applications"]):
        return
    for model in config.models:
        if model.processor:
            try:
                declared(model.processor, model.name, packages[model.name].signature)
            except InvalidConfig as error:
                raise InvalidConfig(detail=f"{config.path}: {error}") from error


def _import_problems(config: ConfigFile) -> Iterator[str]:
    for application in config.content["applications"]:
        wanted = str(application.get("import_path", ""))
        top = wanted.partition(":")[0].partition(".")[0]
        if top == BUILDER.partition(".")[0] and wanted != BUILDER:
            yield f"import_path: there is no {wanted}; write {BUILDER}"
        elif top.isidentifier() and not application.get("runtime_env") and not _found(top):
            yield f"import_path: there is no module {top}, of {wanted}"


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None or any(Path().glob(f"{module}.py")) or Path(module).is_dir()


def _port_problems(config: ConfigFile) -> Iterator[str]:
    listening = [(application, key) for application in config.ours for key in ("http_port", "grpc_port")]
    for (one, key), (other, other_key) in combinations(listening, 2):
        port, other_port = getattr(one.gateway, key), getattr(other.gateway, other_key)
        if one is not other and _meet(one.gateway.host, port, other.gateway.host, other_port):
            yield (
                f"applications '{one.name}' and '{other.name}' both listen at port {port}, and would answer each "
                f"other's requests: give each its own `gateway.{other_key}`"
            )
    for application in config.ours:
        gateway = application.gateway
        if gateway.http_port is None and config.proxies == DISABLED:
            yield (
                f"application '{application.name}' does not listen (`http_port: null`), and without Serve's proxies "
                "nobody reaches it: write `proxy_location: EveryNode` at the top of the file, or give it a port"
            )
        if config.proxies != DISABLED and _meet(gateway.host, gateway.http_port, *config.proxy_address):
            yield (
                f"Serve's proxies would take port {gateway.http_port}, at which the gateways of application "
                f"'{application.name}' listen: {TWO_WAYS_OUT}"
            )


def _meet(host: str, port: int | None, other_host: str, other_port: int | None) -> bool:
    return port is not None and port == other_port and hosts_overlap(host, other_host)


def _section_problems(config: ConfigFile) -> Iterator[str]:
    for application in config.ours:
        tls = application.gateway.tls
        for file in (tls.certificate, tls.key) if tls else ():
            if not file.exists():
                yield f"application '{application.name}': gateway.tls: no file {file}"
        yield from _token_problems(application)
        known = deployments_of(application)
        for name in application.deployments.keys() - known:
            yield f"application '{application.name}' has no deployment '{name}'; available: {', '.join(sorted(known))}"


def _token_problems(application: Ours) -> Iterator[str]:
    for key in ("admin_tokens", "inference_tokens"):
        if (file := getattr(application.gateway, key)) is not None:
            try:
                read_tokens(file)
            except InvalidConfig as error:
                yield f"application '{application.name}': gateway.{key}: {error}"


def _plan_problems(config: ConfigFile) -> Iterator[str]:
    for model in config.models:
        try:
            checked_plan(model.rollout, f"model '{model.name}': rollout")
        except InvalidConfig as error:
            yield str(error)


def _rule_problems(config: ConfigFile) -> Iterator[str]:
    for model in config.models:
        try:
            check_rules(model.checkpoints)
        except WrongNameRule as error:
            yield f"model '{model.name}': checkpoints: {error}"


def _prefix_problems(config: ConfigFile) -> Iterator[str]:
    for application in config.content["applications"]:
        prefix = application.get("route_prefix")
        if prefix is not None and not re.fullmatch(r"/|(/[^/{}]+)+", str(prefix)):
            yield f"route_prefix: {prefix!r} is none: write `/`, or a path like `/models` without a slash at its end"


def _check_schema(config: ConfigFile) -> None:
    from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

    def check_keys(place: str, schema: Any, content: Mapping[str, Any]) -> None:
        for key in set(content) - set(schema.model_fields):  # Serve would ignore them
            raise InvalidConfig(detail=f"{config.path}: {place}{key}: there is no such key")

    check_keys("", ServeDeploySchema, config.content)
    for number, application in enumerate(config.content["applications"]):
        check_keys(f"applications.{number}.", ServeApplicationSchema, application)
    for ours in config.ours:
        for name, options in ours.deployments.items():
            check_keys(f"application '{ours.name}', deployment '{name}': ", DeploymentSchema, options)
    try:
        ServeDeploySchema.model_validate(config.content)
    except ValidationError as error:
        raise InvalidConfig(detail=f"{config.path}: {problems(_outermost(error.errors()))}") from error


def _outermost(found: list[Any]) -> list[Any]:
    """Reduce pydantic's problems to one for each field; it lists one for each type that the field could have had."""
    return list({tuple(entry["loc"][:4]): entry for entry in reversed(found)}.values())


PROBLEMS = (_import_problems, _prefix_problems, _port_problems, _section_problems, _plan_problems, _rule_problems)


def _open_package(path: Path, model: ModelConfig) -> Package:
    where = f"{path}: model '{model.name}'"
    if not model.package.exists():
        raise InvalidConfig(detail=f"{where}: no file {model.package}")
    package = configured_package(model)
    package.check_whole()  # each replica would find it, a minute later
    problem = _weights_problem(model, package)
    try:
        answers = _has_committed(model) if problem or not is_uri(model.store_root) else None
    except AotiServeError as error:
        raise InvalidConfig(detail=f"{where}: {error}") from error
    if problem and not answers:
        raise InvalidConfig(detail=f"{where}: {problem}")
    return package


def _weights_problem(model: ModelConfig, package: Package) -> str | None:
    """The reason why no first version can be made; it does not matter where the store's version answers."""
    if model.weights is None:
        return None if package.carries_weights else NO_WEIGHTS
    if not model.weights.exists():
        return f"no file {model.weights}"
    try:
        spans = read_spans(checkpoint_spans(model.weights), model.checkpoints, package.signature)
        package.signature.check_weights(spans)
    except InvalidWeights as error:
        return f"weights {model.weights}: {error}"
    return None


def _has_committed(model: ModelConfig) -> bool:
    """Whether the store has a version that answers. Of a folder, that version's record and header are read."""
    catalog = Catalog(model.store_root, model.name)
    committed = catalog.committed()
    if committed is not None and committed.version.number != BUILT_IN.number and not is_uri(model.store_root):
        catalog.index(committed.version)
    return committed is not None


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
