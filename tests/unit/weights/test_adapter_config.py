"""The settings that PEFT writes: what merging needs of them, and that nothing else is passed over in silence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from aoti_serve.errors import UnfitAdapter
from aoti_serve.weights.adapter_config import MAX_PATTERNS, AdapterConfig, adapter_at, config_beside

# What peft 0.21.2 has written for LoraConfig(r=4, lora_alpha=16, target_modules=["q"]).
WRITTEN: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": {"base_model_class": "Net", "parent_library": "__main__"},
    "base_model_name_or_path": None,
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 16,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 4,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q"],
    "target_parameters": None,
    "task_type": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}


def parsed(**settings: Any) -> AdapterConfig:
    return AdapterConfig.parse(json.dumps(WRITTEN | settings).encode(), "adapter_config.json")


def test_what_peft_writes_is_reduced_to_what_merging_needs() -> None:
    assert parsed().model_dump(exclude_defaults=True) == {"r": 4, "lora_alpha": 16}
    assert parsed(r=8, lora_alpha=4).scale("q") == 0.5
    assert parsed(r=8, lora_alpha=4, use_rslora=True).scale("q") == 4 / math.sqrt(8)


@pytest.mark.parametrize(
    "settings",
    [
        {"bias": "all", "modules_to_save": ["head"], "lora_dropout": 0.1},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"rank_pattern": None},
        {"target_modules": "all-linear", "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/model"},
    ],
)
def test_what_changes_no_tensors_meaning_is_passed_over(settings: dict[str, Any]) -> None:
    assert parsed(**settings) == parsed()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "use_dora True is not supported; merge it where it was trained"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True is not supported"),
        ({"lora_bias": True}, "lora_bias True"),
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
        ({"trainable_token_indices": [1, 2]}, r"trainable_token_indices \[1, 2\]"),
        ({"layer_replication": [[0, 9]] * 99}, r"layer_replication \[\[0, 9\].* is not supported; merge it"),
        ({"of_a_later_release": 1}, "of_a_later_release 1 is not supported"),
        ({"r": 0}, "r: 0 is too small: more than 0 is needed"),
        ({"r": None}, "r: it is missing"),
        ({"lora_alpha": "much"}, "lora_alpha: "),
        ({"lora_alpha": math.inf}, "lora_alpha: .*finite"),
        ({"alpha_pattern": {".*q": 1}}, r"alpha_pattern: '\.\*q' is a regular expression; write out the names"),
        ({"rank_pattern": {"q": 0}}, "rank_pattern.q: "),
        (
            {"rank_pattern": {str(number): 1 for number in range(MAX_PATTERNS + 1)}},
            "rank_pattern: .*100000 entries are the most",
        ),
    ],
)
def test_what_would_mean_something_else_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UnfitAdapter, match=f"cannot be merged: adapter_config.json: {said}"):
        parsed(**settings)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"r":' + b"[" * 10_000, b"\xff"])
def test_what_is_no_such_json_is_refused(content: bytes) -> None:
    with pytest.raises(UnfitAdapter, match=r"a/adapter_config\.json"):
        AdapterConfig.parse(content, "a/adapter_config.json")


@pytest.mark.parametrize(
    ("pattern", "rank"),
    [
        ({"q": 2}, 2),
        ({"layers.1.q": 2}, 2),
        ({"^layers.1.q": 2}, 2),
        ({"1.q": 3, "q": 2}, 3),
        ({"q": 2, "1.q": 3}, 2),
        ({"^q": 2, "rs.1.q": 3, "layers": 5, "layers.1": 6, "xq": 7}, 4),
    ],
)
def test_the_first_pattern_that_is_a_modules_name_or_its_end_counts(pattern: dict[str, int], rank: int) -> None:
    assert parsed(rank_pattern=pattern).rank("layers.1.q") == rank
    assert parsed(alpha_pattern={name: 4 * value for name, value in pattern.items()}).scale("layers.1.q") == rank


def test_an_adapter_is_the_folder_that_peft_writes_or_the_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(WRITTEN))
    (tmp_path / "mine.safetensors").touch()
    assert adapter_at(tmp_path) == (tmp_path / "adapter_model.safetensors", parsed())
    assert adapter_at(tmp_path / "mine.safetensors") == (tmp_path / "mine.safetensors", parsed())


def test_an_adapter_without_settings_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UnfitAdapter, match=rf"{tmp_path}/adapter_config.json: No such file.*PEFT writes it beside"):
        adapter_at(tmp_path)


@pytest.mark.parametrize("place", ["gone", "gone/adapter_model.safetensors"])
def test_an_adapter_that_is_not_there_is_called_that(tmp_path: Path, place: str) -> None:
    with pytest.raises(UnfitAdapter, match=rf"{tmp_path}/{place}: there is no such folder or file"):
        adapter_at(tmp_path / place)


def test_the_settings_of_an_adapter_elsewhere_are_beside_it() -> None:
    assert config_beside("s3://bucket/a/adapter_model.safetensors") == "s3://bucket/a/adapter_config.json"
    assert config_beside("/mnt/what?/x.safetensors") == "/mnt/what?/adapter_config.json"
    with pytest.raises(UnfitAdapter, match="names one file only; send what stands in it as `adapter_config`"):
        config_beside("https://host/x.safetensors?signature=/1")
