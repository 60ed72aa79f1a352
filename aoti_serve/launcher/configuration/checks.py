"""Checks that find in seconds why a configuration could never serve; Ray would take minutes to fail."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aoti_serve.cluster.coordinator.first import unfit_first
from aoti_serve.cluster.deployments import GATEWAY, coordinator_of, processor_of, replicas_of
from aoti_serve.config import NO_WEIGHTS, ModelConfig
from aoti_serve.errors import AotiServeError, InvalidConfig, InvalidWeights, WrongNameRule, no_such_key, problems
from aoti_serve.launcher.configuration.config_file import BUILDER, DISABLED, ConfigFile, Ours
from aoti_serve.launcher.configuration.stores import no_folder
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

TWO_WAYS_OUT = (
    "write `proxy_location: Disabled` at the top of the file, or give the gateway another `http_port` or null"
)


def check_config(config: ConfigFile) -> dict[str, Package]:
    """Check the whole configuration. Returns the packages of all models, by name.

    Raises InvalidConfig or a PackageError. Needs no running Ray, only its schema.
    """
    packages: dict[str, Package] = {}
    for error in config_errors(config, packages):
        raise error
    return packages


def config_errors(config: ConfigFile, packages: dict[str, Package]) -> Iterator[AotiServeError]:
    """All that is wrong with it, as `check_config` raises it. Packages that can be opened go into `packages`."""
    for problem in chain.from_iterable(find(config) for find in PROBLEMS):
        yield InvalidConfig(detail=f"{config.path}: {problem}")
    yield from _schema_errors(config)
    for model in config.models:
        try:
            packages[model.name] = _open_package(config.path, model)
        except AotiServeError as error:
            yield error
    yield from _processor_errors(config, packages)


def deployments_of(application: Ours) -> list[str]:
    """The names that Serve will give to the deployments of an application."""
    models = [model.name for model in application.config.models]
    processors = [processor_of(model.name) for model in application.config.models if model.processor]
    return [GATEWAY, *map(coordinator_of, models), *map(replicas_of, models), *processors]


def _processor_errors(config: ConfigFile, packages: Mapping[str, Package]) -> Iterator[InvalidConfig]:
    """Not where a `runtime_env` may bring the classes: this process is not in it."""
    if any(application.get("runtime_env") for application in config.content["applications"]):
        return
    for model in config.models:
        if model.processor and model.name in packages:
            try:
                declared(model.processor, model.name, packages[model.name].signature)
            except InvalidConfig as error:
                yield InvalidConfig(detail=f"{config.path}: {error}")


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


def _schema_errors(config: ConfigFile) -> Iterator[InvalidConfig]:
    from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

    def unknown(place: str, schema: Any, content: Mapping[str, Any]) -> Iterator[InvalidConfig]:
        for key in sorted(set(content) - set(schema.model_fields)):  # Serve would ignore them
            detail = f"{config.path}: {place}{key}: {no_such_key(key, schema.model_fields)}"
            yield InvalidConfig(detail=detail)

    yield from unknown("", ServeDeploySchema, config.content)
    for number, application in enumerate(config.content["applications"]):
        yield from unknown(f"applications.{number}.", ServeApplicationSchema, application)
    for ours in config.ours:
        for name, options in ours.deployments.items():
            yield from unknown(f"application '{ours.name}', deployment '{name}': ", DeploymentSchema, options)
    try:
        ServeDeploySchema.model_validate(config.content)
    except ValidationError as error:
        yield InvalidConfig(detail=f"{config.path}: {problems(_outermost(error.errors()))}")


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
        return unfit_first(model.weights, error)
    return None


def _has_committed(model: ModelConfig) -> bool:
    """Whether the store has a version that answers. Of a folder, that version's record and header are read."""
    if reason := no_folder(model):
        raise InvalidConfig(detail=reason)
    catalog = Catalog(model.store_root, model.name)
    committed = catalog.committed()
    if committed is not None and committed.version.number != BUILT_IN.number and not is_uri(model.store_root):
        catalog.index(committed.version)
    return committed is not None
