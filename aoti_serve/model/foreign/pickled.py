"""Checkpoints that torch.save wrote, read without running what is in them, and written as safetensors."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from aoti_serve.errors import UnreadableWeights
from aoti_serve.errors.file_kinds import FileKind, kind_of

PICKLE_INDEX = "pytorch_model.bin.index.json"


class Converted(NamedTuple):
    """What was written, and the names of what is no tensor and was left out."""

    tensors: int
    nbytes: int
    left_out: list[str]


def convert_pickle(source: Path, target: Path, key: str | None = None) -> Converted:
    """Write the state dict in `source` to `target`, as safetensors; `key` says under which key it lies there.

    A pickle, an index of several, or a folder with one. Read with torch.load's weights_only alone, which runs nothing
    of it. Raises UnreadableWeights; `target` must not exist, and is there only if all went well.
    """
    paths = _pickles(source)
    for path in paths:
        _check_kind(path)
    if target.exists():
        raise UnreadableWeights(detail=f"{target} is there already: name another file, or remove it")
    state: dict[str, Any] = {}
    for path in paths:
        state |= state_dict_in(_loaded(path), path, key)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    half = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, half)
        half.rename(target)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UnreadableWeights(detail=f"{target} cannot be written: {error}") from error
    finally:
        half.unlink(missing_ok=True)
    return Converted(len(tensors), target.stat().st_size, sorted(state.keys() - tensors.keys()))


def state_dict_in(found: Any, path: Path, key: str | None) -> Mapping[str, Any]:
    """The state dict in what was loaded: itself, or what lies under `key`, or the only one that lies in it.

    Raises UnreadableWeights, which names the keys under which there are some.
    """
    inside = {name: value for name, value in found.items() if _is_state(value)} if isinstance(found, Mapping) else {}
    if key is None and _is_state(found):
        return _named(found)
    if key is None and len(inside) == 1:
        return _named(next(iter(inside.values())))
    if key in inside:
        return _named(inside[key])
    keys = ", ".join(f"--key {name}" for name in inside) or "none"
    raise UnreadableWeights(detail=f"{path}: it is not clear which state dict is meant; there are: {keys}")


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(entry, torch.Tensor) for entry in value.values())


def _named(state: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in state.items()}


def _pickles(source: Path) -> list[Path]:
    """The files that make up the checkpoint."""
    if source.is_dir():
        found = [path for name in (PICKLE_INDEX, "pytorch_model.bin") if (path := source / name).exists()]
        if not found:
            raise UnreadableWeights(detail=f"the folder {source} holds no {PICKLE_INDEX} and no pytorch_model.bin")
        source = found[0]
    if not source.name.endswith(".index.json"):
        return [source]
    try:
        shards = sorted(set(json.loads(source.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UnreadableWeights(detail=f"{source} is no index of shards: {error}") from error
    return [source.with_name(Path(str(shard)).name) for shard in shards]


def _check_kind(path: Path) -> None:
    """torch would read a safetensors file as well; whoever gives one means another."""
    kind = kind_of(path)
    if kind is FileKind.SAFETENSORS:
        raise UnreadableWeights(detail=f"{path} is a safetensors file already: swap to it as it is")
    if kind not in (FileKind.TORCH, FileKind.ARCHIVE, FileKind.UNKNOWN):  # an archive of a later torch, or none at all
        raise UnreadableWeights(detail=f"{path} is no checkpoint that torch.save wrote: it is {kind}")


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UnreadableWeights(detail=f"{path}: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it asks for {found[1]}" if found else "it is no pickle of tensors"
        detail = f"{path} holds more than tensors: {what}, and nothing of that was run; save its state_dict() alone"
        raise UnreadableWeights(detail=detail) from error
    except (RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        said = str(error).partition("\n")[0]
        raise UnreadableWeights(detail=f"{path} is no checkpoint that torch.save wrote: {said}") from error
