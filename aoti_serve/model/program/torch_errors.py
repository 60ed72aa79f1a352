"""What torch says of a module that it cannot export or compile: its own point, without the advice around it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from aoti_serve.errors import ExportFailed

T = TypeVar("T")
PAGE = "docs/tutorial/your-model.md"

_ASIDES = re.compile(
    r"\s*The error above occurred when calling torch\.export\.export\..*"
    r"|\s*For more information, run with TORCH_LOGS=\S+"
    r"|\s*For more information about this error, see: \S+"
    r"| If you're using mark_dynamic, .*?Dim\.AUTO\.",
    re.DOTALL,
)
_PLACE = re.compile(r"L\['(\w+)'\]((?:\[[^\]]*\])*)\.size\(\)\[(\d+)\]")
_UNPROVED = re.compile(r"\n  - Not all values of .*")
_FIXED = re.compile(r"You marked (.+) as dynamic but your code specialized it to be a constant \((\d+)\)")
_MOST_LINES = 3
_FIXES = "Suggested fixes:"


def torch_message(phase: str, work: Callable[[], T], hint: str = "") -> T:
    """Return what `work` returns. Each of the dozen kinds of errors that torch raises becomes an ExportFailed."""
    try:
        return work()
    except Exception as error:
        said = _ASIDES.sub("", str(error)).strip()
        raise ExportFailed(
            phase=phase, kind=type(error).__name__, detail=_short(said), hint=_advice(said) + hint
        ) from error


def fixed_dims(error: ExportFailed) -> list[tuple[str, int]]:
    """The dimensions that were to vary and that torch has fixed, by name or place, and their sizes."""
    return [(name, int(size)) for name, size in _FIXED.findall(error.detail)]


def suggested_fixes(error: ExportFailed) -> str | None:
    """torch's own words with the dimensions that it could prove, for torch to read; None if it has none."""
    said = str(error.__cause__)
    return _ASIDES.sub("", said) if _FIXES in said else None


def _short(said: str) -> str:
    # One dimension has dozens of such lines, and what to write instead stands at the end.
    lines = _UNPROVED.findall(said)
    text = _UNPROVED.sub("", said) + "".join(lines[: 0 if _FIXES in said else _MOST_LINES])
    return _PLACE.sub(_place, text.replace(", max=oo)", ")"))


def _place(match: re.Match[str]) -> str:
    inner = re.sub(r"\['?([^\]']*)'?\]", r".\1", match[2])
    return f"dimension {match[3]} of '{match[1]}{inner}'"


def _advice(said: str) -> str:
    sizes = {int(size) for _, size in _FIXED.findall(said)}
    if 1 in sizes:
        return "\nGive it an example of 2 or more: torch fixes a dimension whose example is 1."
    if sizes:
        return (
            "\nforward() needs its size as a number: in a loop over it, in `int(...)`, in an `if`. Leave it out of "
            f"dynamic_shapes, and the package takes this size alone; {PAGE} has ways to write it otherwise."
        )
    if _FIXES in said:
        return "\nWrite this into dynamic_shapes, or change forward()."
    if _UNPROVED.search(said):
        return "\nGive the Dim a range, `min=` and `max=`, in which this is true of all sizes."
    return next((advice for sign, advice in _BY_SIGN if sign.search(said)), "")


_BY_SIGN = (
    (
        re.compile("data-dependent|unbacked", re.IGNORECASE),
        "\nforward() asks in an `if`, a loop or a size for a value that only the data tell; compiled code cannot. "
        f"Write it with torch.where or torch.cond; {PAGE} has ways.",
    ),
    (
        re.compile(r"\d+ not in range \["),
        "\nThe example has this size, and the Dim in dynamic_shapes does not take it: change one of them.",
    ),
)
