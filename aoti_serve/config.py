"""The configuration: the `args` of a Serve application, one section per owner, unknown keys refused."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Discriminator, Field, PositiveInt, StringConstraints, Tag, model_validator

from aoti_serve.signature.tensors import DeviceKind, Frozen, TensorSpec

PortNumber = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)]
# Absolute: the processes of the server start in other folders.
AbsolutePath = Annotated[Path, AfterValidator(Path.resolve)]

NO_WEIGHTS = (
    "its package carries no weights, and nothing is committed in its store: `weights:` must name the first ones"
)
ALIASES = {"s3a": "s3", "gcs": "gs"}  # two names of one service


def _located(place: str) -> str:
    if not place:
        raise ValueError("it is empty")
    if "::" in place:
        raise ValueError("a chain of URIs cannot be used here")
    if urlsplit(place).scheme == "local":
        raise ValueError("write a folder of this host without `local:`")
    if "://" in place and not place.partition("://")[2].strip("/"):
        raise ValueError("a URI needs more than its scheme")
    return absolute(place)


# A folder of this host, or a URI such as s3://bucket/models; absolute, as an AbsolutePath.
Location = Annotated[str, AfterValidator(_located)]


def absolute(place: str) -> str:
    """A folder's absolute path after all links, or a URI without dots and double slashes."""
    scheme, uri, rest = place.partition("://")
    if not uri:
        return str(Path(place).resolve())
    if scheme.lower() == "file":
        return str(Path(unquote(urlsplit(place).path)).resolve())
    authority, _, path = rest.partition("/")
    path = posixpath.normpath("/" + path.lstrip("/"))
    return f"{scheme.lower()}://{authority}{path if path != '/' else ''}"


def problems(found: Sequence[Any]) -> str:
    """pydantic's `errors()` in words, by field; without its addresses."""
    # A list whose entries are wrong is reported as too short as well.
    real = [entry for entry in found if entry["type"] != "too_short"] or found
    return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {_words(entry)}".removeprefix(": ") for entry in real)


def _words(problem: Any) -> str:
    unknown = problem["type"] == "extra_forbidden"
    return "there is no such key" if unknown else str(problem["msg"]).removeprefix("Value error, ")


class BatchingConfig(Frozen):
    """How requests share a run, and when they are refused. Rows, not requests: a request of 8 images counts 8.

    `max_queue_delay_ms` is how long rows wait for company while a runner is free; with 0 only where that pays.
    Beyond `max_queued_rows` (one larger than a batch counts as one batch) or `max_queued_bytes` a request is refused,
    and also if the rows before it would not leave within `max_queue_wait_ms` (null: however long). Each level of
    priority is worth `priority_ageing_ms` of waiting.
    """

    max_batch_size: PositiveInt = 256
    max_queue_delay_ms: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_queued_rows: PositiveInt = 4096
    max_queued_bytes: PositiveInt = 256 * 2**20
    max_queue_wait_ms: float | None = Field(default=500.0, gt=0, allow_inf_nan=False)
    priority_ageing_ms: float = Field(default=100.0, gt=0, allow_inf_nan=False)


class ScalingConfig(Frozen):
    """Serve's autoscaling: one more after `upscale_delay_s` of need, one less after `downscale_delay_s` without.

    `target_ongoing_requests`: for a model's replica rows that wait or are run, by default a full batch for each runner;
    for a gateway its requests, by default 64.
    """

    min: PositiveInt = 1
    max: PositiveInt
    target_ongoing_requests: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    upscale_delay_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    downscale_delay_s: float = Field(default=600.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> ScalingConfig:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


def _kind(value: object) -> str:
    return "scaling" if isinstance(value, Mapping | ScalingConfig) else "count"


# By tags, so that an error names only the kind that was meant.
ReplicaCount = Annotated[
    Annotated[PositiveInt, Tag("count")] | Annotated[ScalingConfig, Tag("scaling")], Discriminator(_kind)
]


class DeclaredSignature(Frozen):
    """The inputs and outputs of a package made elsewhere, in its order; a shape is like `[batch=1..64, 16]`.

    Of the constants the package knows all but two things: which of them weights may leave out because the package
    carries them, and which further names a trainer's weights hold that the code does not use.
    """

    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    carried: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _named_apart(self) -> DeclaredSignature:
        for specs in (self.inputs, self.outputs):
            names = [spec.name for spec in specs]
            if len(set(names)) < len(names):
                raise ValueError(f"two have one name: {names}")
        return self


class ModelConfig(Frozen):
    """One model. Paths are relative to the folder that the server is started in.

    `model_name` chooses among several models in one archive; `operators` are Python modules that define the package's
    custom operators, imported wherever it is loaded; `signature` is for packages that do not know theirs.
    """

    name: ModelName
    package: AbsolutePath
    sha256: str | None = None
    model_name: str | None = None
    signature: DeclaredSignature | None = None
    operators: tuple[str, ...] = ()
    weights: AbsolutePath | None = None
    store: Location | None = None
    weights_roots: tuple[Location, ...] = ()
    keep_versions: Annotated[int, Field(ge=2)] = 8
    previous: Literal["keep", "release"] = "keep"
    stage_timeout_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    commit_timeout_s: float = Field(default=30.0, ge=3, allow_inf_nan=False)
    device: Literal["auto"] | DeviceKind = "auto"
    num_runners: PositiveInt = 1
    replicas: ReplicaCount = 1
    batching: BatchingConfig = BatchingConfig()

    @property
    def store_root(self) -> str:
        """Where versions are kept, as an absolute path or a URI: beside the package if the configuration is silent."""
        return self.store or absolute(str(self.package.with_suffix(".versions")))


class Tls(Frozen):
    """PEM files of the listener: its certificate with the chain behind it, and its private key."""

    certificate: AbsolutePath
    key: AbsolutePath


class WeightsLimits(Frozen):
    """The limits of every file of weights. They are keys of `gateway`; the coordinators apply them."""

    max_weights_bytes: PositiveInt = 16 * 2**30
    max_weights_tensors: PositiveInt = 100_000
    max_weights_header_bytes: PositiveInt = 16 * 2**20


class GatewayConfig(WeightsLimits):
    """The gateways, and the limits of their clients. Sizes in bytes, times in seconds, limits of requests per gateway.

    With `http_port: null` gateways do not listen; they answer through Serve's own proxies only. gRPC is answered where
    there is a `grpc_port`, 8001 for one, within those limits that mean anything there. A request's headers may take
    `header_timeout_s`, its body `body_timeout_s` and a second more for each `min_body_bytes_per_s` of it; a connection
    without a request is closed after `idle_timeout_s`, one that does not take its answer after `write_timeout_s`.
    `max_reading_bytes` is for all bodies that are being read or answered, but for those of up to 64 KiB.
    `max_json_bytes` and `max_json_values` are for the JSON of a request: nothing else runs while it is read.
    """

    host: str = "127.0.0.1"
    http_port: PortNumber | None = 8000
    grpc_port: PortNumber | None = None
    tls: Tls | None = None
    replicas: ReplicaCount = 1
    access_log: bool = False
    max_connections: PositiveInt = 4096
    max_header_bytes: PositiveInt = 32 * 2**10
    max_headers: PositiveInt = 100
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    min_body_bytes_per_s: PositiveInt = 2**20
    idle_timeout_s: Seconds = 60.0
    write_timeout_s: Seconds = 60.0
    max_reading_bytes: PositiveInt = 512 * 2**20
    max_body_bytes: PositiveInt = 64 * 2**20
    max_json_bytes: PositiveInt = 8 * 2**20
    max_json_values: PositiveInt = 2**19
    max_request_tensors: PositiveInt = 256
    max_request_rows: PositiveInt = 65_536

    @model_validator(mode="after")
    def _room_for_a_body(self) -> GatewayConfig:
        if self.max_reading_bytes < self.max_body_bytes:
            raise ValueError("max_reading_bytes is below max_body_bytes: a body that large could never be read")
        return self

    @model_validator(mode="after")
    def _two_ports(self) -> GatewayConfig:
        if self.grpc_port is not None and self.grpc_port == self.http_port:
            raise ValueError(f"http_port and grpc_port are both {self.http_port}")
        return self


class AppConfig(Frozen):
    """Everything under `args:` of the application."""

    models: tuple[ModelConfig, ...] = Field(min_length=1)
    gateway: GatewayConfig = GatewayConfig()

    @model_validator(mode="after")
    def _unique(self) -> AppConfig:
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"two models share a name: {names}")
        if len({_one_spelling(model.store_root) for model in self.models}) < len(names):
            raise ValueError("two models share a store; give each its own `store`")
        return self


def _one_spelling(root: str) -> str:
    """Equal for two URIs of one place."""
    scheme, uri, rest = root.partition("://")
    if not uri:
        return root
    authority, slash, path = rest.partition("/")
    return f"{ALIASES.get(scheme, scheme)}://{authority.lower()}{slash}{path}"
