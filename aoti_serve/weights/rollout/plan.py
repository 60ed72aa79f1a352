"""The plan of a rollout: which shares of the traffic, for how long, and what ends it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, ValidationError, model_validator

from aoti_serve.errors import InvalidConfig, problems, shown_value, yaml_words
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.rollout.quantities import (
    CanaryShare,
    Duration,
    LatencyFactor,
    LeastAgreement,
    RateLimit,
    StepDuration,
    TrafficShare,
)


class AbortRules(Frozen):
    """The limits of a rollout; null turns a rule off.

    `error_rate`: at most this share of the candidate's requests may fail by the server's fault. `p99`: its 99th
    percentile of latency may be at most so many times the active version's. `non_finite`: at most this share of its
    answers may hold a NaN or an infinity; `any` is 0. Of the shadowed requests, `top1_agreement`: the share of rows in
    which both versions rank the same class first (integers: in which they are equal) must not be below this; `cosine`:
    nor the mean cosine of both versions' rows. Both are of every output, or of those that they name, each with a limit
    of its own. Both are off at first: only you know how far new weights may depart.
    """

    error_rate: RateLimit | None = 0.01
    p99: LatencyFactor | None = 2.0
    non_finite: RateLimit | None = 0.0
    top1_agreement: LeastAgreement | None = None
    cosine: LeastAgreement | None = None

    @property
    def compares_answers(self) -> bool:
        """Whether a rule needs shadowed requests."""
        return self.top1_agreement is not None or self.cosine is not None

    def check_outputs(self, known: Collection[str]) -> None:
        """Raise InvalidConfig for an output that a rule names and the model has not."""
        for rule in ("top1_agreement", "cosine"):
            limit = getattr(self, rule)
            for name in limit if isinstance(limit, Mapping) else ():
                if name not in known:
                    detail = f"the model has no output '{name}'; available: {', '.join(known)}"
                    raise InvalidConfig(detail=f"rollout: abort_if.{rule}: {detail}")


def least_for(limit: LeastAgreement, output: str) -> float | None:
    """The limit of a rule on agreement for one output; None if it does not judge this one."""
    return limit.get(output) if isinstance(limit, Mapping) else limit


def _as_tuple(value: Any) -> Any:
    """JSON has no tuples, and a strict reader takes no list for one."""
    return tuple(value) if isinstance(value, list) else value


class RolloutPlan(Frozen):
    """`rollout:` in a plan's file.

    `canary`: the shares of the requests that the candidate answers, one step each, growing; with none of them it only
    runs as a shadow, in one step. `each`: how long a step takes. `shadow`: the share of the active version's requests
    that the candidate runs as well, while its answers are only compared; in every step. `abort_if`: the limits.
    `min_requests`: so many requests, and as many compared ones if a rule needs them, a step must have seen of the
    candidate, and of the active version, unless nothing is left to it. `extend`: so many times `each` a step goes on
    that has seen too few, or whose figures are beyond a limit by what may be chance. `if_undecided`: what happens then:
    the candidate is withdrawn, or the step goes on until it is decided. `watch`: how long the rules hold on after the
    commit, when they roll back.
    """

    canary: Annotated[tuple[CanaryShare, ...], BeforeValidator(_as_tuple)] = (0.05, 0.25, 0.5)
    each: StepDuration = 60.0
    shadow: TrafficShare = 0.0
    abort_if: AbortRules = AbortRules()
    min_requests: PositiveInt = 200
    extend: NonNegativeInt = 4
    if_undecided: Literal["withdraw", "hold"] = "withdraw"
    watch: Duration = 120.0

    @model_validator(mode="after")
    def _possible(self) -> RolloutPlan:
        if any(later <= earlier for earlier, later in pairwise(self.canary)):
            raise ValueError(f"canary: each share must be larger than the one before, not {list(self.canary)}")
        if self.shadow == 0 and self.abort_if.compares_answers:
            raise ValueError("top1_agreement and cosine compare answers of both versions: say shadow: 10% as well")
        if self.abort_if.compares_answers and self.steps[-1] == 1:
            raise ValueError("canary: a step of 100% leaves top1_agreement and cosine nothing to compare: end below")
        if self.shadow == 0 and not self.canary:
            raise ValueError("neither canary nor shadow: the candidate would see no request")
        return self

    @property
    def steps(self) -> tuple[float, ...]:
        """The candidate's share of the answers in each step."""
        return self.canary or (0.0,)


def read_plan(text: str, source: str = "the rollout's plan") -> RolloutPlan:
    """The plan in YAML or JSON, with or without `rollout:` above it. Raises InvalidConfig, which names the key."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise InvalidConfig(detail=f"{source}: {yaml_words(error, source)}") from None
    return checked_plan(document, source)


def checked_plan(document: object, source: str) -> RolloutPlan:
    """The plan in such a document. Raises InvalidConfig, which names the `source` and the key."""
    try:
        return RolloutPlan.model_validate(_inner(document))
    except ValidationError as error:
        raise InvalidConfig(detail=f"{source}: {problems(error.errors(), RolloutPlan)}") from None
    except ValueError as error:
        raise InvalidConfig(detail=f"{source}: {error}") from None


def _inner(document: Any) -> Any:
    if document is None:
        return {}
    if not isinstance(document, Mapping | RolloutPlan):
        raise ValueError(f"{shown_value(document)} is no plan: write KEY: VALUE, such as `canary: [5%, 50%]`")
    if isinstance(document, dict) and list(document) == ["rollout"]:
        return document["rollout"] or {}
    return document
