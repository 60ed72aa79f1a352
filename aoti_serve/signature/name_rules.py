"""The rules by which the names of a checkpoint become those of a package. What they do: `weights/files/naming.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from aoti_serve.signature.tensors import Frozen

MAX_RULES = 32
MAX_RULE = 256


def _is_rename(rule: str) -> str:
    if "=" not in rule:
        raise ValueError(f"{rule!r} has no '=': write PATTERN=NEW, as in 'bert\\.=' or '=bert.'")
    return _bounded(rule)


def _bounded(rule: str) -> str:
    if len(rule) > MAX_RULE:
        raise ValueError(f"a rule of {len(rule)} characters; {MAX_RULE} is the most")
    return rule


def _listed(written: Any) -> Any:
    """In a query a rule is text, and several are JSON."""
    if not isinstance(written, str):
        return tuple(written) if isinstance(written, list) else written
    try:
        found = json.loads(written)
    except ValueError:
        return (written,)
    return tuple(found) if isinstance(found, list) and all(isinstance(rule, str) for rule in found) else (written,)


_Rename = Annotated[str, AfterValidator(_is_rename)]
_Drop = Annotated[str, Field(min_length=1), AfterValidator(_bounded)]
Renames = Annotated[tuple[_Rename, ...], Field(max_length=MAX_RULES), BeforeValidator(_listed)]
Drops = Annotated[tuple[_Drop, ...], Field(max_length=MAX_RULES), BeforeValidator(_listed)]


class NameRules(Frozen):
    """`rename`: PATTERN=NEW, each in turn: what the pattern matches at the beginning of a name becomes NEW, in which
    `\\1` is a group's text. `drop`: patterns of whole names, as they are then, that are left out. All are Python's.
    """

    rename: Renames = ()
    drop: Drops = ()

    @property
    def change_names(self) -> bool:
        return bool(self.rename or self.drop)

    def replacements(self) -> Iterable[tuple[str, str]]:
        """The pattern and what it becomes, of each of `rename`. A pattern may hold a '=', so the last one counts."""
        for rule in self.rename:
            pattern, _, new = rule.rpartition("=")
            yield pattern, new


class ReadingRules(NameRules):
    """How checkpoints are read: by which names, and whether floats of another width are converted (`cast`)."""

    cast: bool = False
    """Convert floats of another width; else they are refused."""


AS_IT_IS = ReadingRules()
