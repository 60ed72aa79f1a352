"""The options of a swap: over HTTP, from the command line, from a trainer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from aoti_serve.signature.tensors import Frozen

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
Label = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]  # it is shown in terminals
Uri = Annotated[str, StringConstraints(max_length=4096)]
VersionNumber = Annotated[int, Field(ge=0)]


class SwapOptions(Frozen):
    """`sha256` is that of the file that is sent. `partial` weights are changes to `base_version`, which must be given.

    With `base_version` the swap is refused unless that version answers. Not `strict`: values that differ from
    compiled-in ones are passed over, and the compiled ones stay.
    """

    label: Label = ""
    sha256: Sha256 | None = None
    partial: bool = False
    base_version: VersionNumber | None = None
    strict: bool = True

    @model_validator(mode="after")
    def _based(self) -> SwapOptions:
        if self.partial and self.base_version is None:
            raise ValueError("a partial swap needs base_version: the version that its tensors are changes to")
        return self
