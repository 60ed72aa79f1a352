"""Labels that can be moved: names for weights versions, such as `stable`, changed by compare-and-set.

A version's own `label`, a note of what it is, is another thing: it never changes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, RootModel

from aoti_serve.errors import LabelMoved, TooManyLabels, shown_value
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.swap_options import VersionNumber

MAX_LABELS = 64
RESERVED = ("active", "previous", "candidate")  # the server knows these itself
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def _named(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError("a label has 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', a letter or a digit first")
    if name.isdecimal():
        raise ValueError("it would be taken for a version's number; put a letter into it")
    if name in RESERVED:
        raise ValueError(f"the server itself says what {name!r} is; choose another name")
    return name


LabelName = Annotated[str, AfterValidator(_named)]


def _expected(value: object) -> object:
    if value is None or value == "any" or (type(value) is int and value >= 0):
        return value
    raise ValueError(f"{shown_value(value)} is neither the number of a version, nor none, nor any")


ExpectedVersion = Annotated[VersionNumber | Literal["any"] | None, BeforeValidator(_expected)]


class LabelChange(Frozen):
    """Let the label `name` name `version`, or nothing if that is None.

    Only if it names `expected` now: a version, or None if there must be no such label. "any": whatever it names.
    """

    name: LabelName
    version: VersionNumber | None
    expected: ExpectedVersion = "any"


def expectation(text: str) -> int | str | None:
    """What `expected` stands for where all is text, in a query or on a command line: `none` is None."""
    if text == "none":
        return None
    return int(text) if text.isdecimal() and text.isascii() else text


class VersionLabels(RootModel[dict[LabelName, VersionNumber]]):
    """The labels of one model's versions, with the numbers that they name: at most `MAX_LABELS`. A value."""

    model_config = ConfigDict(frozen=True)
    root: Annotated[dict[LabelName, VersionNumber], Field(max_length=MAX_LABELS)] = {}

    def changed(self, change: LabelChange, model: str) -> VersionLabels:
        """The labels after `change`. What stands already is no error, whatever was expected: it may be a repeat.

        Raises LabelMoved or TooManyLabels.
        """
        now = self.root.get(change.name)
        if now == change.version:
            return self
        if change.expected != "any" and change.expected != now:  # noqa: PLR1714, mypy reads it so
            raise LabelMoved(model=model, label=change.name, version=now, expected=change.expected)
        rest = {name: number for name, number in self.root.items() if name != change.name}
        if change.version is None:
            return VersionLabels(rest)
        if len(rest) >= MAX_LABELS:
            raise TooManyLabels(model=model, limit=MAX_LABELS)
        return VersionLabels(dict(sorted((rest | {change.name: change.version}).items())))

    def lost(self, stored: Collection[int]) -> Mapping[str, int]:
        """The labels of versions that are not `stored` any more; version 0 always is."""
        return {name: number for name, number in self.root.items() if number and number not in stored}
