"""What is wrong with a value, in words: nothing of pydantic's own shows, and nothing of Python's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from aoti_serve.config import AppConfig, BatchingConfig, FollowConfig, GatewayConfig, ModelConfig
from aoti_serve.errors import problems, shown_value
from aoti_serve.weights.labels import LabelChange
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.swap_options import SwapOptions

PYDANTICS = re.compile(r"Input should|Field required|should match|valid (tuple|dictionary|integer)|literal\[|function-")


def wrong(kind: type[BaseModel], **given: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(given)
    return problems(caught.value.errors(), kind)


def model(**given: Any) -> str:
    return wrong(ModelConfig, name="m", package="m.pt2", **given)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (lambda: wrong(RolloutPlan, canary="20%"), "canary: '20%' is no list: write [20%]"),
        (lambda: wrong(RolloutPlan, abort_if=3), "abort_if: 3 is no mapping of keys to values"),
        (lambda: wrong(RolloutPlan, if_undecided="maybe"), "if_undecided: 'maybe' is not 'withdraw' or 'hold'"),
        (lambda: wrong(RolloutPlan, extend=1.5), "extend: 1.5 is no whole number"),
        (lambda: wrong(RolloutPlan, min_requests=0), "min_requests: 0 is too small: more than 0 is needed"),
        (
            lambda: wrong(RolloutPlan, watch=None),
            "watch: null is no duration: write 60s, 2m, 1h, or a number of seconds",
        ),
        (
            lambda: wrong(RolloutPlan, watch="1000000h"),
            "watch: '1000000h' is too long: 720h, which are 30 days, is the most",
        ),
        (
            lambda: wrong(SwapOptions, rollout='{"canary":[2]}'),
            "rollout.canary.0: 2 is more than the whole: write 5% or 0.05",
        ),
        (lambda: wrong(SwapOptions, rollout="true"), "rollout: true is no mapping of keys to values"),
        (
            lambda: wrong(SwapOptions, rollout="hello"),
            "rollout: 'hello' is not JSON: expected value at line 1 column 1",
        ),
        (
            lambda: wrong(SwapOptions, sha256="x"),
            "sha256: 'x' is not a sha256: 64 digits of 0-9 and a-f, as `sha256sum FILE` prints them",
        ),
        (lambda: wrong(SwapOptions, partial="perhaps"), "partial: 'perhaps' is neither true nor false"),
        (
            lambda: wrong(LabelChange, name="a", version=1, expected="x"),
            "expected: 'x' is neither the number of a version, nor none, nor any",
        ),
        (lambda: wrong(GatewayConfig, http_port=99999), "http_port: 99999 is too large: 65535 or less is needed"),
        (lambda: wrong(GatewayConfig, host=None), "host: null is no text"),
        (lambda: wrong(AppConfig), "models: it is missing"),
        (
            lambda: wrong(FollowConfig, uri="w", every="soon"),
            "every: 'soon' is no time: write 10s, 5min, 1h, or a number of seconds",
        ),
        (lambda: model(replicas="many"), "replicas: 'many' is no whole number"),
        (lambda: model(replicas={"min": 0, "max": 2}), "replicas.min: 0 is too small: more than 0 is needed"),
        (lambda: model(device="tpu"), "device: 'tpu' is not 'auto', 'cpu' or 'cuda'"),
        (lambda: model(num_runner=2), "num_runner: there is no such key; there is `num_runners`"),
        (
            lambda: wrong(AppConfig, models=[{"name": "m", "package": "m", "batching": {"rows": 2}}]),
            f"models.0.batching.rows: there is no such key; available: {', '.join(BatchingConfig.model_fields)}",
        ),
        (
            lambda: wrong(RolloutPlan, abort_if={"eror_rate": 0.1}),
            "abort_if.eror_rate: there is no such key; there is `error_rate`",
        ),
        (lambda: model(processor={"class": "x"}), "processor.class: 'x' is not a class: write module:Class"),
    ],
)
def test_a_value_that_will_not_do_is_named_with_what_is_expected(said: Callable[[], str], words: str) -> None:
    assert said() == words
    assert not PYDANTICS.search(words)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ([None], "a list"),
        ({"a": 1}, "an object"),
        ("x" * 99, f"'{'x' * 40}'"),
        (math.ldexp(1, 64), "a number too large for 64 bits"),
        (math.inf, "Infinity"),
        (0.5, "0.5"),
    ],
)
def test_a_value_is_shown_as_json_writes_it(value: object, shown: str) -> None:
    assert shown_value(value) == shown
