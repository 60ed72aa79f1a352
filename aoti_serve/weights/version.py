"""A weights version, and the record of the committed one."""

from __future__ import annotations

from typing import TypedDict

from aoti_serve.signature.name_rules import NameRules
from aoti_serve.signature.tensors import Frozen

LONGEST_LABEL = 256  # characters; console/page/swap.js says it again


class MergedAdapter(Frozen):
    """The adapter that a version was made with: the version that it was merged into, and the sha256 of its own file."""

    base: int
    digest: str


class GoldenFile(Frozen):
    """The file of golden requests that came with a version: its sha256, its bytes, and how many requests are in it."""

    digest: str
    nbytes: int
    requests: int


class Asset(Frozen):
    """A file that the processor reads, as it came with a version: its name, its sha256, its bytes."""

    name: str
    digest: str
    nbytes: int


class Assets(Frozen):
    """The files that the processor reads with a version; in the store they are one file, of this sha256 and size."""

    digest: str
    nbytes: int
    files: tuple[Asset, ...]


class Rounding(Frozen):
    """What a cast has done to `tensors` of a checkpoint: in `tensor` a value of the size `value` has become another by
    `error`, and in no other by more. 0: all of them are exact.
    """

    tensors: int
    tensor: str
    error: float
    value: float


class Version(Frozen):
    """`number` 0 stands for the package's built-in weights, which have no digest and no file.

    `created` is in seconds since 1970 (UTC), `nbytes` the size of the safetensors file, `digest` its sha256.
    `parent` is the version that was current when this one was made, and what a partial swap changed; `adapter` is None
    unless it was made with one. Not `strict`: values that differ from compiled-in ones were accepted, with the compiled
    ones staying. `golden` requests are asked of it wherever it is staged, beside the package's own; of one that
    `skips_acceptance` nobody asks any. `names` are the rules by which the names of its checkpoint became the package's,
    `rounding` what converting its floats has changed; None if there was nothing to do. `assets` are the files that the
    processor reads with it; None for those of the configuration.
    """

    number: int
    digest: str = ""
    label: str = ""
    created: float = 0.0
    nbytes: int = 0
    tensors: int = 0
    parent: int | None = None
    strict: bool = True
    adapter: MergedAdapter | None = None
    golden: GoldenFile | None = None
    skips_acceptance: bool = False
    names: NameRules | None = None
    rounding: Rounding | None = None
    assets: Assets | None = None

    def same_weights(self, other: Version) -> bool:
        """Whether the other has the same bytes, made in the same way, and let in by all that this one asks for."""
        return self._made_of() == other._made_of() and self.golden in (None, other.golden)

    @property
    def adapter_base(self) -> int:
        """The version that the next adapter is merged into: this one, or its own adapter's, so that none pile up."""
        return self.adapter.base if self.adapter else self.number

    def _made_of(self) -> tuple[object, ...]:
        return self.digest, self.strict, self.adapter, self.skips_acceptance, self.assets


class VersionFacts(TypedDict, total=False):
    """What is known of a version before it is stored."""

    parent: int | None
    strict: bool
    adapter: MergedAdapter | None
    golden: GoldenFile | None
    skips_acceptance: bool
    names: NameRules | None
    rounding: Rounding | None
    assets: Assets | None


BUILT_IN = Version(number=0, label="built into the package")


class Committed(Frozen):
    """The version that answers. `epoch` counts commits, so it grows with a rollback too, where `version` goes back."""

    epoch: int
    version: Version
    previous: Version | None = None

    @property
    def numbers(self) -> set[int]:
        """The numbers of both versions, and of those that their adapters were merged into."""
        versions = [version for version in (self.version, self.previous) if version is not None]
        return {number for version in versions for number in (version.number, version.adapter_base)}
