"""Whether a configuration could start on this machine, now. `up` asks for the ports; `aoti-serve check` for all."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain

from aoti_serve.cluster.ray_private import resources_here
from aoti_serve.config import GatewayConfig, ModelConfig
from aoti_serve.errors import AotiServeError, BadCertificate, InvalidConfig, StartFailed
from aoti_serve.launcher.configuration.capacity import shortage, weights_bytes
from aoti_serve.launcher.configuration.config_file import DISABLED, ConfigFile
from aoti_serve.launcher.configuration.leaders import leader_warning, led_now
from aoti_serve.launcher.configuration.rooms import StoreRoom, store_rooms
from aoti_serve.launcher.configuration.stores import no_folder, store_problems
from aoti_serve.launcher.processes.ports import require_free
from aoti_serve.model.archive.preflight import check_machine
from aoti_serve.model.package import Package
from aoti_serve.signature.tensors import CPU
from aoti_serve.weights.sources.uri import is_uri, shown_uri
from aoti_serve.weights.store.catalog import Catalog

EVERYWHERE = "0.0.0.0"


def port_errors(config: ConfigFile, metrics_port: int) -> Iterator[StartFailed]:
    """The ports that others hold. `metrics_port` is that of a new cluster's metrics, 0 for any."""
    for host, port, way_out in _ports(config, metrics_port):
        try:
            require_free(host, port, way_out)
        except StartFailed as error:
            yield error


def machine_errors(
    config: ConfigFile, packages: Mapping[str, Package], metrics_port: int, tell: Callable[[str], None]
) -> Iterator[AotiServeError]:
    """All that would keep this configuration from starting here, though it is a right one.

    `tell` hears what takes long.
    """
    yield from port_errors(config, metrics_port)
    if reason := shortage(config, packages, resources_here()):
        yield StartFailed(detail=f"{config.path}: {reason}: some replicas could never start")
    yield from _memory_errors(config, packages)
    for application in config.ours:
        yield from _certificate_errors(application.gateway)
    yield from _store_errors(config, packages, tell)
    for package in packages.values():
        yield from _package_errors(package)


def machine_warnings(config: ConfigFile, packages: Mapping[str, Package]) -> Iterator[str]:
    """What lets it start, and should be known before."""
    yield from map(leader_warning, led_now(config.models))
    yield from chain.from_iterable(_key_warnings(application.gateway) for application in config.ours)
    yield from (f"model '{room.model.name}': {room.warning}" for room in _rooms(config, packages) if room.warning)


def unchecked(config: ConfigFile, packages: Mapping[str, Package]) -> Iterator[str]:
    """What only a start can tell."""
    for model in config.models:
        if is_uri(model.store_root):
            store = f"store {shown_uri(model.store_root)}"
            yield f"model '{model.name}': whether its {store} is whole and has room, and whether it can be written"
        elif model.weights is not None and _is_new(model):
            yield f"model '{model.name}': the values of its first weights, among which may be a NaN"
        if model.name in packages and packages[model.name].device != CPU:
            yield f"model '{model.name}': the memory of the GPUs, and whether its kernels fit them"
        if model.follow is not None:
            yield f"model '{model.name}': whether the place that it follows can be read"
    others = [name for name in config.names if name not in {application.name for application in config.ours}]
    yield from (f"application '{name}', which is not ours" for name in others)


def _is_new(model: ModelConfig) -> bool:
    """Whether a start would open its store for the first time; one that cannot be read is a problem by itself."""
    with suppress(AotiServeError):
        return not Catalog(model.store_root, model.name).exists
    return False


def _ports(config: ConfigFile, metrics_port: int) -> Iterator[tuple[str, int, str]]:
    for application in config.ours:
        for option, key in (("--port", "http_port"), ("--grpc-port", "grpc_port")):
            if (port := getattr(application.gateway, key)) is not None:
                yield application.gateway.host, port, f"choose another with {option}, or `gateway.{key}` in the file"
    if metrics_port:
        yield EVERYWHERE, metrics_port, "choose another for the metrics with --metrics-port"
    if config.proxies != DISABLED:
        yield *config.proxy_address, "choose another for Serve's proxies, `http_options.port` in the file"


def _memory_errors(config: ConfigFile, packages: Mapping[str, Package]) -> Iterator[StartFailed]:
    from aoti_serve.model.device.cpu import available_memory

    needed, there = weights_bytes(config, packages), available_memory()
    if needed > there:
        detail = f"the weights of all replicas, two versions of each, take {needed:,} bytes; {there:,} are available"
        yield StartFailed(detail=f"{config.path}: {detail}: have fewer `replicas`")


def _certificate_errors(gateway: GatewayConfig) -> Iterator[BadCertificate]:
    tls = gateway.tls
    if tls is None or not (tls.certificate.exists() and tls.key.exists()):  # the configuration's checks name these
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    except (OSError, ValueError) as error:
        yield BadCertificate(certificate=tls.certificate, key=tls.key, detail=str(error))


def _key_warnings(gateway: GatewayConfig) -> Iterator[str]:
    """A key that others may read; only a warning, since secrets that Kubernetes mounts are often so."""
    with suppress(OSError):
        if gateway.tls is not None and gateway.tls.key.stat().st_mode & stat.S_IRWXO:
            yield f"gateway.tls.key: other users of this machine may read {gateway.tls.key}: chmod o= it"


def _store_errors(
    config: ConfigFile, packages: Mapping[str, Package], tell: Callable[[str], None]
) -> Iterator[InvalidConfig]:
    failed = set()
    for model in config.models:
        for problem in store_problems(model, packages.get(model.name), tell):
            failed.add(model.name)
            yield InvalidConfig(detail=f"{config.path}: model '{model.name}': {problem}")
    for room in _rooms(config, packages):
        if room.problem and room.model.name not in failed:
            yield InvalidConfig(detail=f"{config.path}: model '{room.model.name}': {room.problem}")


def _rooms(config: ConfigFile, packages: Mapping[str, Package]) -> Iterator[StoreRoom]:
    here = [model for model in config.models if model.name in packages and not is_uri(model.store_root)]
    return store_rooms([(model, packages[model.name]) for model in here if no_folder(model) is None])


def _package_errors(package: Package) -> Iterator[AotiServeError]:
    try:
        check_machine(package.path, package.metadata)
    except AotiServeError as error:
        yield error
