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
    """How requests share a run, and when they are refused. Rows, not requests: a request of 8 images counts 8."""

    max_batch_size: PositiveInt = 256
    """Rows of a run at most, or fewer if the package takes fewer. A larger request is cut into pieces."""
    max_queue_delay_ms: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How long rows wait for company while a runner is free; with 0 only where that is measured to pay."""
    max_queued_rows: PositiveInt = 4096
    """Beyond it a request is refused with a 503. A request that is larger than a batch counts as one batch."""
    max_queued_bytes: PositiveInt = 256 * 2**20
    """Beyond it a request is refused with a 503."""
    max_queue_wait_ms: float | None = Field(default=500.0, gt=0, allow_inf_nan=False)
    """A request is refused with a 503 if the rows before it would not leave within that, at the pace measured, or
    if no replica lives for so long; null: however long.
    """
    priority_ageing_ms: float = Field(default=100.0, gt=0, allow_inf_nan=False)
    """The waiting that one level of priority is worth."""

    @property
    def longest_wait_s(self) -> float:
        return math.inf if self.max_queue_wait_ms is None else self.max_queue_wait_ms / 1e3


class DeclaredSignature(Frozen):
    """The inputs and outputs of a package made elsewhere."""

    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    """In the order of the package, such as `{name: x, dtype: FP32, shape: [batch=1..64, 16]}`."""
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    """As `inputs`."""
    carried: tuple[str, ...] | None = None
    """The constants that weights may leave out, because the package carries them; null: all buffers."""
    unused: tuple[str, ...] = ()
    """Further names that a trainer's weights hold and the code does not use, beside the counters of batch norms.
    """

    @model_validator(mode="after")
    def _named_apart(self) -> DeclaredSignature:
        for specs in (self.inputs, self.outputs):
            names = [spec.name for spec in specs]
            if len(set(names)) < len(names):
                raise ValueError(f"two have one name: {names}")
        return self


class FollowConfig(Frozen):
    """A place that the coordinator looks at again and again, to swap to the newest version: docs/guides/follow.md."""

    uri: FollowedPlace
    """A folder, a file, a URI that fsspec can list, `hf://org/repo@revision`, or MLflow's `models:/name@alias`."""
    every: Period = 10.0
    """In seconds; or written as 10s, 5min, 1h."""


class ModelConfig(Frozen):
    """One model. Paths are relative to the folder that the server is started in."""

    name: ModelName
    """As in paths and commands."""
    package: AbsolutePath
    """The `.pt2` file."""
    sha256: str | None = None
    """Pins the package."""
    model_name: str | None = None
    """Chooses among several models in one archive."""
    signature: DeclaredSignature | None = None
    """For packages that do not know theirs."""
    operators: tuple[str, ...] = ()
    """Python modules that define the package's custom operators, imported wherever it is loaded."""
    weights: AbsolutePath | None = None
    """The first version: a file, an index of shards, or a folder. Required if the package carries none. Later,
    what is committed in the store wins.
    """
    store: Location | None = None
    """Where versions are kept: a folder that every node sees on which the coordinator may start, or an fsspec URI.
    By default `model.versions` beside `model.pt2`: docs/guides/disk.md.
    """
    weights_roots: tuple[Location, ...] = ()
    """Folders and URI prefixes (`s3://bucket/models`) from which the weights API may read."""
    follow: FollowConfig | None = None
    """A place to swap from by itself."""
    keep_versions: Annotated[int, Field(ge=2)] = 8
    """How many versions the store keeps."""
    keep_bytes: PositiveInt | None = None
    """How many bytes the versions of the store take at the most; null: any number."""
    previous: Literal["keep", "release"] = "keep"
    """Keep the version before in memory, for a rollback that moves no data, or release it."""
    stage_timeout_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """How long all replicas together may take to stage; beyond it a swap is aborted."""
    commit_timeout_s: float = Field(default=30.0, ge=3, allow_inf_nan=False)
    """Whoever takes longer to follow a commit is ended and replaced. It must be longer than your longest run."""
    checkpoints: ReadingRules = AS_IT_IS
    """How files with other names or dtypes are read, wherever they come from: docs/guides/checkpoints.md."""
    rollout: Mapping[str, Any] | None = None
    """A plan, as docs/concepts/rollouts.md says: every swap is tried by it, unless it brings its own, asks for a
    candidate, or says `rollout=false`.
    """
    device: Literal["auto"] | DeviceKind = "auto"
    """Auto: what the package was compiled for."""
    num_runners: PositiveInt = 1
    """Runs at the same time in each replica. On a CPU each takes one of Ray's cores; on a GPU a replica takes one
    card and one core. `deployments:` can say otherwise.
    """
    replicas: ReplicaCount = 1
    """A count, or bounds for autoscaling."""
    processor: ProcessorConfig | None = None
    """Python code that makes tensors of text or pictures, and answers of tensors: docs/guides/processors.md."""
    batching: BatchingConfig = BatchingConfig()
    """How requests share a run, and when they are refused."""

    @property
    def store_root(self) -> str:
        """Where versions are kept, as an absolute path or a URI: beside the package if the configuration is silent."""
        return self.store or absolute(str(self.package.with_suffix(".versions")))
