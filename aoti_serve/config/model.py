"""The section of one model: its package, its weights, its replicas, its batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from aoti_serve.config.processor import ProcessorConfig
from aoti_serve.config.scaling import ReplicaCount
from aoti_serve.config.values import AbsolutePath, FollowedPlace, Location, ModelName, Period, absolute
from aoti_serve.signature.name_rules import AS_IT_IS, ReadingRules
from aoti_serve.signature.tensors import DeviceKind, Frozen, TensorSpec

NO_WEIGHTS = (
    "its package carries no weights, and nothing is committed in its store: `weights:` must name the first ones"
)


class BatchingConfig(Frozen):
    """How requests share a run, and when they are refused. Rows, not requests: a request of 8 images counts 8.

    `max_queue_delay_ms` is how long rows wait for company while a runner is free; with 0 only where that pays.
    Beyond `max_queued_rows` (one larger than a batch counts as one batch) or `max_queued_bytes` a request is refused,
    and also if the rows before it would not leave within `max_queue_wait_ms` (null: however long), or if no
    replica lives for so long. Each level of priority is worth `priority_ageing_ms` of waiting.
    """

    max_batch_size: PositiveInt = 256
    max_queue_delay_ms: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_queued_rows: PositiveInt = 4096
    max_queued_bytes: PositiveInt = 256 * 2**20
    max_queue_wait_ms: float | None = Field(default=500.0, gt=0, allow_inf_nan=False)
    priority_ageing_ms: float = Field(default=100.0, gt=0, allow_inf_nan=False)

    @property
    def longest_wait_s(self) -> float:
        return math.inf if self.max_queue_wait_ms is None else self.max_queue_wait_ms / 1e3


class DeclaredSignature(Frozen):
    """The inputs and outputs of a package made elsewhere, in its order; a shape is like `[batch=1..64, 16]`.

    Of the constants the package knows all but two things: which of them weights may leave out because the package
    carries them (all buffers, unless `carried` names them), and which further names a trainer's weights hold that the
    code does not use (but for the counters of batch norms).
    """

    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    carried: tuple[str, ...] | None = None
    unused: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _named_apart(self) -> DeclaredSignature:
        for specs in (self.inputs, self.outputs):
            names = [spec.name for spec in specs]
            if len(set(names)) < len(names):
                raise ValueError(f"two have one name: {names}")
        return self


class FollowConfig(Frozen):
    """A place that the coordinator looks at every so many seconds (`every`), to swap to the newest version there.

    A folder, a file, a URI that fsspec can list, `hf://org/repo@revision`, or MLflow's `models:/name@alias`.
    """

    uri: FollowedPlace
    every: Period = 10.0


class ModelConfig(Frozen):
    """One model. Paths are relative to the folder that the server is started in.

    `model_name` chooses among several models in one archive; `operators` are Python modules that define the package's
    custom operators, imported wherever it is loaded; `signature` is for packages that do not know theirs. With a
    `rollout` (docs/concepts/rollouts.md) swaps are tried on a part of the requests before they are committed. `checkpoints` says
    how files with other names or dtypes are read, wherever they come from (docs/guides/checkpoints.md). With a `processor`
    (docs/guides/processors.md) clients send and get what that declares.
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
    follow: FollowConfig | None = None
    keep_versions: Annotated[int, Field(ge=2)] = 8
    keep_bytes: PositiveInt | None = None
    previous: Literal["keep", "release"] = "keep"
    stage_timeout_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    commit_timeout_s: float = Field(default=30.0, ge=3, allow_inf_nan=False)
    checkpoints: ReadingRules = AS_IT_IS
    rollout: Mapping[str, Any] | None = None
    device: Literal["auto"] | DeviceKind = "auto"
    num_runners: PositiveInt = 1
    replicas: ReplicaCount = 1
    processor: ProcessorConfig | None = None
    batching: BatchingConfig = BatchingConfig()

    @property
    def store_root(self) -> str:
        """Where versions are kept, as an absolute path or a URI: beside the package if the configuration is silent."""
        return self.store or absolute(str(self.package.with_suffix(".versions")))
