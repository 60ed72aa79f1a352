"""Renames the tensors of a checkpoint, in a process that can be ended: a regular expression may take for ever.

It is run as a script, with Python's own library alone. In comes {"rename": [[pattern, new], ...], "drop": [pattern,
...], "names": [...], "longest", "seconds", "bytes"}, out go {"names": [new or null, ...]}, or {"rule", "wrong"}.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

NameStep = Callable[[str], str | None]


class WrongRule(Exception):
    """A rule that cannot be followed, and why."""

    def __init__(self, rule: str, wrong: object) -> None:
        super().__init__(rule, str(wrong))


def renaming(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to what came in."""
    try:
        steps: list[NameStep] = [_rename(pattern, new, asked["longest"]) for pattern, new in asked["rename"]]
        steps += [_drop(pattern) for pattern in asked["drop"]]
        return {"names": [_through(steps, name) for name in asked["names"]]}
    except WrongRule as error:
        return dict(zip(("rule", "wrong"), error.args, strict=True))


def _through(steps: Sequence[NameStep], name: str) -> str | None:
    found: str | None = name
    for step in steps:
        if found is None:
            return None
        found = step(found)
    return found


def _rename(pattern: str, new: str, longest: int) -> NameStep:
    rule = f"{pattern}={new}"
    compiled = _compiled(pattern, rule)
    try:
        compiled.sub(new, "")  # a wrong `new` is found before it is needed
    except (re.error, IndexError) as error:
        raise WrongRule(rule, error) from error

    def step(name: str) -> str:
        match = compiled.match(name)
        if match is None:
            return name
        renamed = match.expand(new) + name[match.end() :]
        if not 0 < len(renamed) <= longest:
            raise WrongRule(
                rule, f"it makes a name of {len(renamed)} characters of '{name}'; 1 to {longest} are allowed"
            )
        return renamed

    return step


def _drop(pattern: str) -> NameStep:
    compiled = _compiled(pattern, pattern)
    return lambda name: None if compiled.fullmatch(name) else name


def _compiled(pattern: str, rule: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise WrongRule(rule, error) from error


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (request["bytes"], request["bytes"]))
    json.dump(renaming(request), sys.stdout)
