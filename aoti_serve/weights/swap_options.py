"""The options of a swap: over HTTP, from the command line, from a trainer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import from_json

from aoti_serve.config.values import Form
from aoti_serve.errors import shown_value
from aoti_serve.signature.name_rules import AS_IT_IS, Drops, ReadingRules, Renames
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.adapter_config import AdapterConfig, config_not_sent
from aoti_serve.weights.files.naming import check_rules
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.quantities import TrafficShare
from aoti_serve.weights.swap.target import Exposure
from aoti_serve.weights.version import LONGEST_LABEL

Sha256 = Annotated[str, Form("[0-9a-fA-F]{64}", "a sha256: 64 digits of 0-9 and a-f, as `sha256sum FILE` prints them")]
Label = Annotated[
    str,
    Field(max_length=LONGEST_LABEL),
    Form(r"[^\x00-\x1f\x7f]*", "a label: it holds a control character"),  # it is shown in terminals
]
Uri = Annotated[str, Field(max_length=4096)]
VersionNumber = Annotated[int, Field(ge=0)]
AssetName = Annotated[
    str, Form(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", "the name of a file: up to 100 letters, digits, '_', '.' and '-'")
]


def _read(setting: Any) -> Any:
    """A query parameter is text."""
    try:
        return from_json(setting) if isinstance(setting, str) else setting
    except ValueError as error:
        raise ValueError(f"{shown_value(setting)} is not JSON: {error}") from None


def _wished(setting: Any) -> str:
    return "<none>" if setting is False else "<plan>"


# By tags, so that an error names only the kind that was meant.
RolloutWish = Annotated[
    Annotated[RolloutPlan, Tag("<plan>")] | Annotated[Literal[False], Tag("<none>")], Discriminator(_wished)
]


class SwapOptions(Frozen):
    """`sha256` is that of the file that is sent. `partial` weights are changes to `base_version`, which must be given.

    A `delta` has only the rows and elements that have changed since the version that answers, whose digest it names. An
    `adapter` is merged into `base_version`; if that is left out, into the version that answers, or the one that this
    one's own adapter was merged into. Else the swap is refused unless `base_version` answers. `adapter_config` is what
    stands in adapter_config.json. Not `strict`: values that differ from compiled-in ones are passed over, and the
    compiled ones stay. `golden` is the sha256 of golden requests that were sent before. With `skip_acceptance` values
    that are no finite numbers are let in, and golden requests, also those of the package, are asked of nobody. `assets`
    are files that the processor reads with this version, by name, each by the sha256 with which it was sent before.

    `rename`, `drop` and `cast` are ReadingRules; of one that is left out the configuration's counts.

    A `candidate` is staged and not committed. It answers this `share` of the requests, and runs this `shadow` share of
    the others beside the version that answers; nobody but those who ask for it, if both are 0. A `rollout` promotes or
    withdraws it by rules; false commits at once, also where the configuration has a rollout.
    """

    label: Label = ""
    sha256: Sha256 | None = None
    partial: bool = False
    delta: Annotated[bool, Field(description="only changed rows and elements, as Python's save_delta writes")] = False
    adapter: bool = False
    adapter_config: Annotated[AdapterConfig | None, BeforeValidator(_read)] = None
    base_version: VersionNumber | None = None
    strict: bool = True
    golden: Sha256 | None = None
    skip_acceptance: bool = False
    assets: Annotated[dict[AssetName, Sha256] | None, BeforeValidator(_read)] = None
    rename: Renames | None = None
    drop: Drops | None = None
    cast: bool | None = None
    candidate: bool = False
    share: TrafficShare = 0.0
    shadow: TrafficShare = 0.0
    rollout: Annotated[RolloutWish | None, BeforeValidator(_read)] = None

    @model_validator(mode="after")
    def _based(self) -> SwapOptions:
        if self.partial and self.base_version is None:
            raise ValueError("a partial swap needs base_version: the version that its tensors are changes to")
        if self.adapter and self.partial:
            raise ValueError("an adapter is no partial swap: leave out one of both")
        if self.delta and (self.partial or self.adapter):
            raise ValueError("a delta is no partial swap and no adapter: leave out one of both")
        if self.delta and self.cast:
            raise ValueError("a delta has the dtypes of what it changes: leave out cast=true")
        if self.adapter_config is not None and not self.adapter:
            raise ValueError("adapter_config belongs to an adapter: say adapter=true as well")
        if self.golden is not None and self.skip_acceptance:
            raise ValueError("with skip_acceptance no golden requests are asked: leave out one of both")
        if (self.share or self.shadow) and not self.candidate:
            raise ValueError("share and shadow are those of a candidate: say candidate=true as well")
        if self.candidate and self.rollout:
            raise ValueError("a rollout decides on the shares of its candidate itself: leave out candidate=true")
        return self

    @property
    def on_base(self) -> bool:
        """Whether what is sent changes a stored version, so that it is not complete by itself."""
        return self.partial or self.delta or self.adapter

    @property
    def exposure(self) -> Exposure | None:
        """How the candidate meets requests; None if there is to be none."""
        return Exposure(share=self.share, shadow=self.shadow) if self.candidate else None

    def reading(self, configured: ReadingRules) -> ReadingRules:
        """How the checkpoint is to be read."""
        asked = {name: getattr(self, name) for name in ("rename", "drop", "cast")}
        return configured.model_copy(update={name: given for name, given in asked.items() if given is not None})

    def check_rules(self) -> None:
        """Raise WrongNameRule for one that cannot be followed, whatever the names are."""
        check_rules(self.reading(AS_IT_IS))

    def check_upload(self) -> None:
        """Raise what can be known before an upload: UnfitAdapter for an adapter without its settings, as nothing lies
        beside an upload, and WrongNameRule.
        """
        self.check_rules()
        if self.adapter and self.adapter_config is None:
            raise config_not_sent("it did not come with the upload")


class ExposureOptions(Frozen):
    """The shares of the requests that are to meet a candidate from now on. One that is left out stays as it is."""

    share: TrafficShare | None = None
    shadow: TrafficShare | None = None

    def applied_to(self, exposure: Exposure) -> Exposure:
        return exposure.model_copy(update=self.model_dump(exclude_none=True))
