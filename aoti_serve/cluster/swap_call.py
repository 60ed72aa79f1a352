"""A swap as Python programs ask for it: its options by keyword, and golden requests among them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar, cast

from pydantic import BaseModel, ValidationError

from aoti_serve.errors import InvalidConfig, problems
from aoti_serve.signature.golden.file import golden_bytes, golden_content, parse_golden
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.weights.assets import AssetFiles, digests_of, read_asset
from aoti_serve.weights.rollout.plan import RolloutPlan, checked_plan, read_plan
from aoti_serve.weights.swap_options import SwapOptions

Golden: TypeAlias = "Path | Collection[GoldenRequest]"
Asked = TypeVar("Asked", bound=BaseModel)
WrittenShare: TypeAlias = str | float  # "5%" or 0.05
WrittenPlan: TypeAlias = RolloutPlan | Mapping[str, Any] | str  # a str is YAML


class SwapKeywords(TypedDict, total=False):
    """The other `SwapOptions`, by keyword; `golden` are requests, or a file of them. `assets` are files by name.

    `rollout` is a plan; False commits at once, also where the configuration has one.
    """

    sha256: str | None
    partial: bool
    delta: bool
    base_version: int | None
    adapter: bool
    adapter_config: Mapping[str, Any] | None
    strict: bool
    golden: Golden | None
    skip_acceptance: bool
    assets: Mapping[str, Path] | None
    rename: Sequence[str] | None
    drop: Sequence[str] | None
    cast: bool | None
    candidate: bool
    share: WrittenShare
    shadow: WrittenShare
    rollout: WrittenPlan | Literal[False] | None


class SwapCall(NamedTuple):
    """The options, and what they name by its sha256: golden requests, b"" if there are none, and `assets`."""

    options: SwapOptions
    golden: bytes
    assets: AssetFiles


def swap_call(label: str, keywords: SwapKeywords) -> SwapCall:
    """Raises InvalidConfig, which names the key, also one of a plan; and UnfitAssets."""
    asked = cast(dict[str, Any], keywords) | {"label": label}
    golden = keywords.get("golden")
    content = b"" if golden is None else _content(golden)
    if content:
        asked["golden"] = hashlib.sha256(content).hexdigest()
    assets = {name: read_asset(path) for name, path in (keywords.get("assets") or {}).items()}
    asked["assets"] = digests_of(assets)
    rollout = keywords.get("rollout")
    if rollout is not None and rollout is not False:
        asked["rollout"] = _plan(rollout)
    return SwapCall(checked_arguments(SwapOptions, asked), content, assets)


def checked_arguments(kind: type[Asked], arguments: Mapping[str, Any]) -> Asked:
    """The arguments of a call as a value. Raises InvalidConfig, which names the one that will not do."""
    try:
        return kind.model_validate(arguments)
    except ValidationError as error:
        raise InvalidConfig(detail=problems(error.errors(), kind)) from None


def _plan(written: WrittenPlan) -> RolloutPlan:
    if isinstance(written, RolloutPlan):
        return written
    if isinstance(written, str):
        return read_plan(written, "rollout")
    return checked_plan(dict(written), "rollout")


def _content(golden: Golden) -> bytes:
    if not isinstance(golden, Path):
        return golden_bytes(golden)
    content = golden_content(golden)
    parse_golden(content)  # what is wrong with it is said here, before weights are sent
    return content
