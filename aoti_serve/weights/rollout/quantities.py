"""The quantities of a rollout's plan, as people write them: 5%, 60s, 2x, any, below 0.9."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from aoti_serve.errors import shown_value

_NUMBER = re.compile(r"\s*((?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\s*([a-z%]*)\s*", re.ASCII)
_SHARES = {"": 1.0, "%": 0.01}
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FACTORS = {"": 1.0, "x": 1.0}
_LONGEST_S = 30 * 24 * 3600.0


def share_of(value: object) -> float:
    """A share of a whole, 0 to 1, from `5%`, `0.05` or 0.05. Raises ValueError, which names the value."""
    share = _read(value, _SHARES, "no share: write 5% or 0.05")
    if share > 1:
        raise ValueError(f"{shown_value(value)} is more than the whole: write 5% or 0.05")
    return share


def duration_of(value: object) -> float:
    """Seconds, from `500ms`, `60s`, `2m`, `1h`, `60` or 60. Raises ValueError, which names the value."""
    seconds = _read(value, _SECONDS, "no duration: write 60s, 2m, 1h, or a number of seconds")
    if seconds > _LONGEST_S:
        raise ValueError(f"{shown_value(value)} is too long: 720h, which are 30 days, is the most")
    return seconds


def factor_of(value: object) -> float:
    """A factor of 1 or more, from `2x`, `2` or 2.0. Raises ValueError, which names the value."""
    factor = _read(value, _FACTORS, "no factor: write 2x or 2.0")
    if factor < 1:
        raise ValueError(
            f"{shown_value(value)} would ask for a candidate that is faster than the active version: write 1x or more"
        )
    return factor


def rate_of(value: object) -> float:
    """A rate, 0 to 1, from `any` (which is 0), `1%` or 0.01. Raises ValueError, which names the value."""
    return 0.0 if _text(value) == "any" else share_of(value)


def least_of(value: object) -> float:
    """The least that is good, 0 to 1, from `below 0.9`, `below 90%` or 0.9. Raises ValueError as `share_of`."""
    return share_of(_text(value).removeprefix("below").strip() if isinstance(value, str) else value)


def least_by_output(value: object) -> float | dict[str, float]:
    """One `least_of` for every output, or a mapping of outputs to theirs. Raises ValueError, which names the output."""
    if not isinstance(value, Mapping):
        return least_of(value)
    if not value:
        raise ValueError("it names no output: write `logits: below 0.9`, or null to turn the rule off")
    return {str(name): _least_of_output(str(name), least) for name, least in value.items()}


def _least_of_output(name: str, value: object) -> float:
    try:
        return least_of(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def shown_share(share: float) -> str:
    """The share in percent, as `share_of` reads it."""
    return f"{100 * share:.3g}%" if share < 0.995 else f"{100 * share:g}%"


_SHARE_SCHEMA = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "examples": ["5%"]}]}
TrafficShare = Annotated[float, BeforeValidator(share_of), WithJsonSchema(_SHARE_SCHEMA)]
CanaryShare = Annotated[float, BeforeValidator(share_of), Field(gt=0)]
Duration = Annotated[float, BeforeValidator(duration_of)]
StepDuration = Annotated[float, BeforeValidator(duration_of), Field(gt=0)]
LatencyFactor = Annotated[float, BeforeValidator(factor_of)]
RateLimit = Annotated[float, BeforeValidator(rate_of)]
LeastAgreement = Annotated[float | Mapping[str, float], BeforeValidator(least_by_output)]


def _read(value: object, units: Mapping[str, float], wrong: str) -> float:
    found = _NUMBER.fullmatch(_text(value))
    if found is None or found[2] not in units or isinstance(value, bool):
        raise ValueError(f"{shown_value(value)} is {wrong}")
    number = float(found[1]) * units[found[2]]
    if not math.isfinite(number):
        raise ValueError(f"{shown_value(value)} is {wrong}")
    return number


def _text(value: object) -> str:
    return value.strip().lower() if isinstance(value, str) else repr(value)
