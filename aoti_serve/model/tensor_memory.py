"""Tensors as memory: whether native code can read one, its bytes, and which are one in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parameter import is_lazy

from aoti_serve.errors import InvalidInputData, UnfitTensor
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.tensors import DTYPES, Shaped
from aoti_serve.signature.torch_private import is_traceable_wrapper_subclass

_DTYPE_NAMES = {getattr(torch, name): name for name in DTYPES}
_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def readable(name: str, tensor: Any, error: type[InvalidInputData | UnfitTensor]) -> Shaped:
    """Describe a tensor that native code can read: dense, with a storage that holds all its elements; else raise."""
    if problem := _problem(tensor):
        raise error(name=name, detail=problem)
    return shaped_as(tensor)


def _problem(tensor: Any) -> str | None:
    if type(tensor) not in _PLAIN:
        if not isinstance(tensor, torch.Tensor):
            return f"a {type(tensor).__name__} instead of a tensor"
        if is_traceable_wrapper_subclass(tensor):
            return f"a {type(tensor).__name__}; make it a plain tensor first"
    if is_lazy(tensor):
        return "not initialised"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return f"not a dense tensor with values ({tensor.layout}, {tensor.dtype}, {tensor.device})"
    if _needed(tensor) > tensor.untyped_storage().nbytes():
        return "its storage is smaller than its shape"
    return None


def memory_key(tensor: torch.Tensor) -> object:
    """Equal for two tensors that are one in memory; an empty tensor is only ever itself."""
    if tensor.numel() == 0:
        return object()
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor, as a vector of bytes."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)  # a single element may have any stride


def constant_in(memory: torch.Tensor, spec: ConstantSpec) -> torch.Tensor:
    """A constant as the code reads it, over as many bytes as it takes."""
    whole = memory.view(getattr(torch, spec.dtype))
    return whole.as_strided(spec.shape, spec.stride, whole.storage_offset())


def content_of(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """Return the bytes of a readable tensor as a file holds them: row-major, on the host."""
    content: NDArray[np.uint8] = bytes_of(tensor.detach().cpu().contiguous().resolve_neg()).numpy()
    return content


def shaped_as(tensor: torch.Tensor) -> Shaped:
    return Shaped(_DTYPE_NAMES.get(tensor.dtype) or str(tensor.dtype), tensor.shape)


def _needed(tensor: torch.Tensor) -> int:
    """Bytes of storage up to the last element."""
    count = tensor.numel()
    if count and not tensor.is_contiguous():
        count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset() + count) * tensor.element_size() if count else 0
