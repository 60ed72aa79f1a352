"""The settings of a LoRA adapter, as PEFT writes them into adapter_config.json beside adapter_model.safetensors.

https://huggingface.co/docs/peft/package_reference/lora#peft.LoraConfig
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, FiniteFloat, PositiveInt, ValidationError, field_validator, model_validator

from aoti_serve.errors import UnfitAdapter, problems
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.sources.uri import is_uri

T = TypeVar("T")
WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
INSTEAD = "merge it where it was trained (PEFT's merge_and_unload), and swap in the whole weights"
MODULE = re.compile(r"\^?[\w.-]+")
MAX_PATTERNS = 100_000

# Whatever their values, the trained tensors mean the same.
WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
# With other values than these they mean something else. So it is with every other setting that is set.
PLAIN = {"peft_type": ("LORA",), "init_lora_weights": (True, "gaussian", "eva", "orthogonal", "mica")}


class AdapterConfig(Frozen):
    """What merging needs of them. All that changes nothing is dropped; what changes something else is refused."""

    r: PositiveInt
    lora_alpha: FiniteFloat
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] = Field(default={}, max_length=MAX_PATTERNS)
    alpha_pattern: dict[str, FiniteFloat] = Field(default={}, max_length=MAX_PATTERNS)

    @classmethod
    def parse(cls, content: bytes, place: object) -> AdapterConfig:
        """Read the file's content. Raises UnfitAdapter, which names its `place`."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise UnfitAdapter(what=str(place), detail=problems(error.errors())) from error

    @model_validator(mode="before")
    @classmethod
    def _of_peft(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        for name, setting in given.items():
            known = name in cls.model_fields or name in WITHOUT_EFFECT
            if setting and not known and setting not in PLAIN.get(name, ()):
                raise ValueError(f"{name} {setting!r:.60} is not supported; {INSTEAD}")
        return {name: given[name] for name in cls.model_fields if given.get(name) is not None}

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _without_expressions(cls, pattern: dict[str, T]) -> dict[str, T]:
        for key in pattern:
            if not MODULE.fullmatch(key):
                raise ValueError(f"{key!r} is a regular expression; write out the names of its modules, or their ends")
        return pattern

    def rank(self, module: str) -> int:
        return _of_module(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """The factor of the product of this module's two matrices."""
        rank, alpha = self.rank(module), _of_module(self.alpha_pattern, module, self.lora_alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def adapter_at(place: Path) -> tuple[Path, AdapterConfig]:
    """The file and the settings of an adapter: of the folder that PEFT writes, or of the file in it.

    Raises UnfitAdapter if the settings are not there, or are none that can be merged.
    """
    if not place.exists() and not place.parent.joinpath(CONFIG_NAME).exists():
        raise UnfitAdapter(what=str(place), detail="there is no such folder or file")
    file = place / WEIGHTS_NAME if place.is_dir() else place
    beside = file.with_name(CONFIG_NAME)
    try:
        content = beside.read_bytes()
    except OSError as error:
        detail = f"{error.strerror}; PEFT writes it beside {WEIGHTS_NAME}, and the tensors mean nothing without it"
        raise UnfitAdapter(what=str(beside), detail=detail) from error
    return file, AdapterConfig.parse(content, beside)


def config_beside(uri: str) -> str:
    """The place of the settings of an adapter that the coordinator reads. Raises UnfitAdapter."""
    if is_uri(uri) and "?" in uri:
        raise config_not_sent("a URI with a query names one file only")
    return posixpath.join(posixpath.dirname(uri), CONFIG_NAME)


def config_not_sent(why: str) -> UnfitAdapter:
    return UnfitAdapter(what=CONFIG_NAME, detail=f"{why}; send what stands in it as `adapter_config`")


def _of_module(pattern: Mapping[str, T], module: str, default: T) -> T:
    """The value of the first key that is the module's name, or its end from a dot on; `^` stands for its beginning."""
    parts = module.split(".") if pattern else []
    names = [f"^{module}", *(".".join(parts[at:]) for at in range(len(parts)))]
    found = [name for name in names if name in pattern]
    if len(found) > 1:
        found.sort(key=list(pattern).index)
    return pattern[found[0]] if found else default
