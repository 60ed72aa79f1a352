"""The terms on which a swap makes a candidate of a version."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aoti_serve.config import ModelConfig
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.swap.target import Exposure
from aoti_serve.weights.swap_options import SwapOptions


class CandidateTerms(NamedTuple):
    """How a candidate meets requests at first; what is to become of it, the `plan` says, or a person.

    `outputs` are the model's, by name.
    """

    exposure: Exposure
    plan: RolloutPlan | None = None
    outputs: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise InvalidConfig if the plan judges an output that the model has not."""
        if self.plan is not None:
            self.plan.abort_if.check_outputs(self.outputs)


def terms_for(model: ModelConfig, signature: Signature) -> Callable[[SwapOptions], CandidateTerms | None]:
    """Makes the terms that a swap asks for, or the configuration; None to commit it at once.

    Raises InvalidConfig if the configuration's plan does not fit the model.
    """
    outputs = tuple(spec.name for spec in signature.outputs)
    configured = None if model.rollout is None else RolloutPlan.model_validate(model.rollout)
    CandidateTerms(Exposure(), configured, outputs).check()

    def terms_of(options: SwapOptions) -> CandidateTerms | None:
        if options.exposure is not None:
            return CandidateTerms(options.exposure)
        plan = configured if options.rollout is None else options.rollout or None
        return CandidateTerms(Exposure(), plan, outputs) if plan else None

    return terms_of
