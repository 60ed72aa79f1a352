"""Tensors as numpy arrays, whose dtype is ml_dtypes' where numpy has none."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from aoti_serve.signature.tensors import DTYPES, Shaped

Array = NDArray[Any]
NUMPY_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    name: np.dtype(getattr(ml_dtypes, name) if dtype.raw else dtype.numpy) for name, dtype in DTYPES.items()
}


def as_array(tensor: Any) -> Array:
    """A numpy array, or a torch tensor of any device, as a row-major array on the host; it may share memory.

    Raises ValueError for anything else, and for a dtype that no package takes.
    """
    array: Any = tensor if isinstance(tensor, np.ndarray | np.generic) else _of_torch(tensor)
    if array.dtype.name not in NUMPY_DTYPES:
        raise ValueError(f"dtype {array.dtype.name} is none of {', '.join(NUMPY_DTYPES)}")
    return np.asarray(array, dtype=NUMPY_DTYPES[array.dtype.name], order="C")


def form_of(array: Array) -> Shaped:
    return Shaped(array.dtype.name, array.shape)


def is_float(array: Array) -> bool:
    """Whether it may hold values that are no finite numbers."""
    return array.dtype.name.startswith(("float", "bfloat"))


def float64(array: Array) -> NDArray[np.float64]:
    return array.astype(np.float64)


def count_not_finite(array: Array) -> int:
    return int(np.count_nonzero(~np.isfinite(float64(array)))) if is_float(array) else 0


def _of_torch(tensor: Any) -> Array:
    import torch  # who has a tensor has it loaded

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"a {type(tensor).__name__} instead of a numpy array or a dense torch tensor")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    dtype = DTYPES.get(str(plain.dtype).removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"dtype {plain.dtype} is none of {', '.join(DTYPES)}")
    held: Array = (plain.view(getattr(torch, dtype.numpy)) if dtype.raw else plain).numpy()
    return held.view(NUMPY_DTYPES[dtype.torch])
