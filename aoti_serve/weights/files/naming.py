"""The names of a checkpoint's tensors, made those of a package by rules: regular expressions, within bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from aoti_serve.errors import WrongNameRule
from aoti_serve.signature.name_rules import NameRules
from aoti_serve.weights.files import renaming_process
from aoti_serve.weights.files.index import MAX_NAME

RULES_CPU_S = 5  # of a processor
NAMING_PATIENCE_S = 120.0  # until it has had them
PROCESS_BYTES = 2**30
_SCRIPT = str(Path(renaming_process.__file__).resolve())
Tensor = TypeVar("Tensor")


def renamed(tensors: Mapping[str, Tensor], rules: NameRules) -> dict[str, Tensor]:
    """The tensors under the names that the rules give them, without those that are dropped.

    Raises WrongNameRule, also where two would have one name, or where it takes more than `RULES_CPU_S`.
    """
    if not rules.change_names:
        return dict(tensors)
    found: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for name, new in zip(tensors, _new_names(tensors, rules), strict=True):
        if new is None:
            continue
        if new in found:
            raise WrongNameRule(rule=_all(rules), detail=f"'{sources[new]}' and '{name}' both become '{new}'")
        found[new], sources[new] = tensors[name], name
    return found


def check_rules(rules: NameRules) -> None:
    """Raise WrongNameRule if one of them is no regular expression, before anything is read or sent."""
    renamed({}, rules)


def _new_names(names: Iterable[str], rules: NameRules) -> list[str | None]:
    """The new name of each, or None. Neither the time nor the memory of a pattern can be known: they are limited."""
    asked = {
        "rename": list(rules.replacements()),
        "drop": list(rules.drop),
        "names": list(names),
        "longest": MAX_NAME,
        "seconds": RULES_CPU_S,
        "bytes": PROCESS_BYTES,
    }
    command = [sys.executable, "-I", "-S", _SCRIPT]
    try:
        ended = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=NAMING_PATIENCE_S, check=True
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        detail = f"it takes more than {RULES_CPU_S} s or {PROCESS_BYTES >> 20} MiB; repetitions in repetitions, as in "
        raise WrongNameRule(rule=_all(rules), detail=f"{detail}(a+)+, are slow: write it without") from error
    answer = json.loads(ended.stdout)
    if "wrong" in answer:
        raise WrongNameRule(rule=answer["rule"], detail=answer["wrong"])
    new: list[str | None] = answer["names"]
    return new


def _all(rules: NameRules) -> str:
    return "', '".join((*rules.rename, *rules.drop))
