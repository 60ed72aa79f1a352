"""What becomes of a swap: a candidate by its own terms, by the configuration's, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from aoti_serve.config import ModelConfig
from aoti_serve.errors import InvalidConfig
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import TensorSpec
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.terms import terms_for

SIGNATURE = Signature(inputs=(), outputs=(TensorSpec(name="y", dtype="float32", shape=(4,)),), constants=())
JUDGES = {"shadow": 0.1, "abort_if": {"cosine": {"y": 0.9}}}
JUDGES_ANOTHER = {"shadow": 0.1, "abort_if": {"cosine": {"z": 0.9}}}


def model(rollout: object = None) -> ModelConfig:
    return ModelConfig.model_validate({"name": "m", "package": Path("m.pt2"), "rollout": rollout})


def test_a_swap_has_the_configurations_plan_its_own_or_none() -> None:
    plain, planned = terms_for(model(), SIGNATURE), terms_for(model(JUDGES), SIGNATURE)
    assert plain(SwapOptions()) is None
    assert planned(SwapOptions(rollout=False)) is None
    of_configuration, own = planned(SwapOptions()), plain(SwapOptions(rollout=RolloutPlan()))
    assert of_configuration is not None
    assert of_configuration.plan == RolloutPlan.model_validate(JUDGES)
    assert own is not None
    assert own.plan == RolloutPlan()


def test_a_plan_that_judges_what_the_model_does_not_give_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="the model has no output 'z'; available: y"):
        terms_for(model(JUDGES_ANOTHER), SIGNATURE)
    terms = terms_for(model(), SIGNATURE)(SwapOptions(rollout=RolloutPlan.model_validate(JUDGES_ANOTHER)))
    assert terms is not None
    with pytest.raises(InvalidConfig, match=r"abort_if\.cosine: the model has no output 'z'"):
        terms.check()
