"""A weights version, and the record of the committed one."""

from __future__ import annotations

from aoti_serve.signature.tensors import Frozen


class MergedAdapter(Frozen):
    """The adapter that a version was made with: the version that it was merged into, and the sha256 of its own file."""

    base: int
    digest: str


class Version(Frozen):
    """`number` 0 stands for the package's built-in weights, which have no digest and no file.

    `created` is in seconds since 1970 (UTC), `nbytes` the size of the safetensors file, `digest` its sha256.
    `parent` is the version that was current when this one was made, and what a partial swap changed; `adapter` is None
    unless it was made with one. Not `strict`: values that differ from compiled-in ones were accepted, with the compiled
    ones staying.
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

    def same_weights(self, other: Version) -> bool:
        """Whether both have the same bytes, and come from them in the same way."""
        return (self.digest, self.strict, self.adapter) == (other.digest, other.strict, other.adapter)

    @property
    def adapter_base(self) -> int:
        """The version that the next adapter is merged into: this one, or its own adapter's, so that none pile up."""
        return self.adapter.base if self.adapter else self.number


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
