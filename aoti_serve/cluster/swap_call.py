"""A swap as Python programs ask for it: its options by keyword, and golden requests among them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

from aoti_serve.signature.golden.file import golden_bytes, golden_content, parse_golden
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.weights.swap_options import SwapOptions

Golden: TypeAlias = "Path | Collection[GoldenRequest]"
WrittenShare: TypeAlias = str | float  # "5%" or 0.05


class SwapKeywords(TypedDict, total=False):
    """The other `SwapOptions`, by keyword; `golden` are requests, or a file of them."""

    sha256: str | None
    partial: bool
    delta: bool
    base_version: int | None
    adapter: bool
    adapter_config: Mapping[str, Any] | None
    strict: bool
    golden: Golden | None
    skip_acceptance: bool
    candidate: bool
    share: WrittenShare
    shadow: WrittenShare


def swap_options(label: str, keywords: SwapKeywords) -> tuple[SwapOptions, bytes]:
    """The options, and the file of golden requests that they name, b"" if they name none."""
    asked = cast(dict[str, Any], keywords) | {"label": label}
    golden = keywords.get("golden")
    content = b"" if golden is None else _content(golden)
    if content:
        asked["golden"] = hashlib.sha256(content).hexdigest()
    return SwapOptions.model_validate(asked), content


def _content(golden: Golden) -> bytes:
    if not isinstance(golden, Path):
        return golden_bytes(golden)
    content = golden_content(golden)
    parse_golden(content)  # what is wrong with it is said here, before weights are sent
    return content
