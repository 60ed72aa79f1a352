"""Tensors in memory as the bytes of a safetensors file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aoti_serve.errors import UnfitTensor
from aoti_serve.signature.tensors import DTYPES, Span
from aoti_serve.weights.files.index import file_order, header_of

if TYPE_CHECKING:
    import torch


def tensor_pieces(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """Yield header and tensors. Tied tensors are written once for each of their names: the format cannot share them.

    Raises UnfitTensor for what is no plain tensor with values.
    """
    tensors = dict(tensors.items())
    spans = {name: _span(name, tensor) for name, tensor in tensors.items()}
    yield header_of(spans, metadata)
    for name in file_order(spans):
        yield _bytes_of(tensors[name])


def _span(name: str, tensor: Any) -> Span:
    from aoti_serve.model.tensor_memory import readable

    found = readable(name, tensor, UnfitTensor)
    if found.dtype not in DTYPES:
        raise UnfitTensor(name=name, detail=f"dtype {found.dtype} is not one of {', '.join(DTYPES)}")
    return Span(*found, 0, tensor.numel() * tensor.element_size())


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    from aoti_serve.model.tensor_memory import content_of

    return content_of(tensor).data
