"""What may be asked of a swap; the rest is refused before anything is read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from aoti_serve.errors import UnfitAdapter, WrongNameRule
from aoti_serve.signature.name_rules import AS_IT_IS, ReadingRules
from aoti_serve.weights.adapter_config import AdapterConfig
from aoti_serve.weights.swap.target import Exposure
from aoti_serve.weights.swap_options import ExposureOptions, SwapOptions

SHA256 = "0123456789abcdef" * 4


def test_by_default_a_swap_is_complete_strict_and_unconditional() -> None:
    order = SwapOptions()
    assert (order.label, order.sha256, order.partial, order.base_version, order.strict) == ("", None, False, None, True)


@pytest.mark.parametrize(
    "asked",
    [
        {"label": "step 1200 \u2014 d\u00e9j\u00e0 vu"},
        {"label": "x" * 256},
        {"sha256": SHA256},
        {"sha256": SHA256.upper()},
        {"base_version": 0},
        {"partial": True, "base_version": 3},
        {"strict": False},
        {"delta": True},
        {"delta": True, "base_version": 3},
        {"golden": SHA256},
        {"adapter": True},
        {"adapter": True, "base_version": 3},
        {"adapter": True, "adapter_config": AdapterConfig(r=4, lora_alpha=16)},
        {"rename": (r"bert\.=", "=model."), "drop": ("pooler.*",), "cast": True},
        {"rename": (), "drop": (), "cast": False},
        {"candidate": True},
        {"candidate": True, "share": 0.05, "shadow": 1.0},
    ],
)
def test_it_takes(asked: dict[str, Any]) -> None:
    order = SwapOptions(**asked)
    assert {name: getattr(order, name) for name in asked} == asked


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"label": "x" * 257}, "label"),
        ({"label": "\x1b[31mred"}, "label"),
        ({"label": "two\nlines"}, "label"),
        ({"label": "a trailing line\n"}, "label"),
        ({"label": "\x7f"}, "label"),
        ({"sha256": SHA256[1:]}, "sha256"),
        ({"sha256": SHA256 + "\n"}, "sha256"),
        ({"sha256": "g" * 64}, "sha256"),
        ({"base_version": -1}, "base_version"),
        ({"rename": ["bert"]}, "has no '='"),
        ({"drop": ["x" * 257]}, "256 is the most"),
        ({"delta": True, "cast": True}, "a delta has the dtypes of what it changes"),
        ({"golden": "seven"}, "golden"),
        ({"golden": SHA256, "skip_acceptance": True}, "no golden requests are asked"),
        ({"partial": True}, "a partial swap needs base_version"),
        ({"lable": "x"}, "lable"),
        ({"share": 0.05}, "share and shadow are those of a candidate"),
        ({"shadow": "5%"}, "share and shadow are those of a candidate"),
        ({"candidate": True, "share": "a few"}, "'a few' is no share: write 5% or 0.05"),
        ({"candidate": True, "shadow": 5}, "5 is more than the whole"),
        ({"adapter": True, "partial": True, "base_version": 1}, "an adapter is no partial swap"),
        ({"delta": True, "partial": True, "base_version": 1}, "a delta is no partial swap and no adapter"),
        ({"delta": True, "adapter": True}, "a delta is no partial swap and no adapter"),
        ({"adapter_config": {"r": 4, "lora_alpha": 16}}, "say adapter=true as well"),
        ({"adapter": True, "adapter_config": {"r": 4}}, "lora_alpha"),
        ({"adapter": True, "adapter_config": '{"r": 4, '}, "adapter_config"),
        ({"adapter": True, "adapter_config": "[" * 10_000}, "adapter_config"),
        ({"adapter": True, "adapter_config": '{"r": 4, "lora_alpha": 16, "use_dora": true}'}, "use_dora True is not"),
    ],
)
def test_it_refuses(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SwapOptions(**asked)


def test_the_settings_of_an_adapter_may_be_text_as_in_a_query() -> None:
    order = SwapOptions.model_validate(
        {"adapter": "true", "adapter_config": '{"r": 4, "lora_alpha": 16, "bias": "none"}'}
    )
    assert order == SwapOptions(adapter=True, adapter_config=AdapterConfig(r=4, lora_alpha=16))


def test_an_uploaded_adapter_must_bring_its_settings() -> None:
    SwapOptions().check_upload()
    SwapOptions(adapter=True, adapter_config=AdapterConfig(r=4, lora_alpha=16)).check_upload()
    with pytest.raises(
        UnfitAdapter, match=r"adapter_config.json: it did not come with the upload; send what stands in"
    ):
        SwapOptions(adapter=True).check_upload()


def test_only_a_candidate_is_exposed() -> None:
    assert SwapOptions().exposure is None
    assert SwapOptions.model_validate({"candidate": "true", "share": "5%"}).exposure == Exposure(share=0.05)


def test_a_share_that_is_left_out_stays_as_it_is() -> None:
    before = Exposure(share=0.05, shadow=0.1)
    asked: list[dict[str, Any]] = [{"share": "20%"}, {"shadow": "0"}, {}]
    found = [ExposureOptions.model_validate(options).applied_to(before) for options in asked]
    assert found == [Exposure(share=0.2, shadow=0.1), Exposure(share=0.05), before]


def test_an_order_does_not_change() -> None:
    with pytest.raises(ValidationError):
        SwapOptions().label = "x"


def test_what_a_swap_does_not_say_of_its_checkpoint_the_configuration_says() -> None:
    configured = ReadingRules(rename=("a=b",), drop=("c",), cast=True)
    assert SwapOptions().reading(configured) == configured
    assert SwapOptions(rename=("=x",)).reading(configured) == ReadingRules(rename=("=x",), drop=("c",), cast=True)
    assert SwapOptions(rename=(), drop=(), cast=False).reading(configured) == AS_IT_IS


def test_a_rule_that_is_none_is_found_before_an_upload() -> None:
    with pytest.raises(WrongNameRule, match="unterminated"):
        SwapOptions(drop=("(?=",)).check_upload()
