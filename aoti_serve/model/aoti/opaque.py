"""Tensors in oneDNN's own layouts, over memory of ours. As unsafe as `c_abi`: nothing here checks sizes.

Such a tensor has a shape, but no strides, and no storage that torch knows of: a descriptor says how its bytes lie. A
compiled library takes one for a constant as it takes any other tensor; a package with frozen weights makes its
constants this way (torch/include/torch/csrc/inductor/aoti_torch/c/shim.h).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aoti_serve.errors import RuntimeFailed
from aoti_serve.model.aoti.c_abi import adopt, libtorch

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}


def pack_linear(weight: torch.Tensor) -> torch.Tensor:
    """Copy a linear layer's weight into the layout that oneDNN chooses on this machine; an opaque tensor."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def pack_convolution(
    weight: torch.Tensor,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    taken: Sequence[int],
) -> torch.Tensor:
    """Copy a convolution's weight into the layout that oneDNN chooses for an input of the shape `taken`; opaque."""
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    packed: torch.Tensor = reorder(weight, list(padding), list(stride), list(dilation), groups, list(taken))
    return packed


def pack_lstm(of_input: torch.Tensor, of_hidden: torch.Tensor, hidden_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy the two weights of an LSTM's layer into the layouts that oneDNN chooses on this machine; opaque tensors.

    Where it has layouts that fit one size of inputs only, those are the plain tensors themselves.
    """
    reorder = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight
    one, other = reorder(of_input, of_hidden, hidden_size, False, True, False)
    return one, other


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in this dtype on this processor."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def pack_int8_linear(weight: torch.Tensor) -> torch.Tensor:
    """As `pack_linear`, an int8 weight for `onednn_int8_linear`; an opaque tensor of `[columns, rows]`."""
    packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
    return packed


def descriptor_of(opaque: torch.Tensor) -> torch.Tensor:
    """How the bytes of an opaque tensor lie."""
    descriptor: torch.Tensor = torch.ops.mkldnn._get_mkldnn_serialized_md(opaque)
    return descriptor


def opaque_bytes(opaque: torch.Tensor) -> torch.Tensor:
    """The memory of an opaque tensor, as a vector of bytes."""
    return _memory(int(torch.ops.mkldnn.data_ptr(opaque)), int(torch.ops.mkldnn._nbytes(opaque)), opaque)


def only_read(array: NDArray[np.uint8]) -> torch.Tensor:
    """A tensor over contiguous bytes that may be read-only, of which torch would warn: nobody may write to it."""
    return _memory(array.ctypes.data, array.nbytes, array)


def opaque_over(
    memory: torch.Tensor, shape: Sequence[int], dtype: torch.dtype, descriptor: torch.Tensor
) -> torch.Tensor:
    """An opaque tensor whose bytes are `memory`, which must be as long as it needs, and outlive it."""
    ndim, made = len(shape), ctypes.c_void_p()
    failed = libtorch.aoti_torch_create_tensor_from_blob_v2(
        ctypes.c_void_p(memory.data_ptr()),
        ctypes.c_int64(ndim),
        (ctypes.c_int64 * ndim)(*shape),
        (ctypes.c_int64 * ndim)(),  # it has no strides
        ctypes.c_int64(0),
        getattr(libtorch, f"aoti_torch_dtype_{_DTYPES[dtype]}")(),
        libtorch.aoti_torch_device_type_cpu(),
        0,
        ctypes.byref(made),
        libtorch.aoti_torch_layout__mkldnn(),
        ctypes.c_void_p(descriptor.data_ptr()),
        ctypes.c_int64(len(descriptor)),
    )
    if failed or made.value is None:
        raise RuntimeFailed(call="aoti_torch_create_tensor_from_blob_v2", detail="no tensor")
    return adopt([made.value])[0]


def _memory(address: int, nbytes: int, owner: object) -> torch.Tensor:
    memory: Any = (ctypes.c_uint8 * nbytes).from_address(address)
    memory.owner = owner  # which must live as long as the bytes can be read
    return torch.frombuffer(memory, dtype=torch.uint8)
