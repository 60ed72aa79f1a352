"""Transposing words of four bytes. As unsafe as `c_abi`: nothing here checks sizes.

By MKL, which torch's builds for x86 contain and export: half as fast as memcpy, torch's own copy a third of that
(https://www.intel.com/content/www/us/en/docs/onemkl/developer-reference-c/2025-0/mkl-omatcopy.html). ctypes releases
the GIL meanwhile.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from aoti_serve.model.aoti.c_abi import libtorch


def transpose_words(source: torch.Tensor, target: torch.Tensor) -> None:
    """Write `source` of `[rows, words]`, int32, to `target` of `[words, rows]`; both contiguous, on the host."""
    if _transpose is None:
        target.copy_(source.t())
    else:
        rows, words = source.shape
        _transpose(b"R", b"T", rows, words, 1.0, source.data_ptr(), words, target.data_ptr(), rows)


def _mkl() -> Any:
    transpose = getattr(libtorch, "MKL_Somatcopy", None)
    if transpose is not None:
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        transpose.restype = None
        transpose.argtypes = [ctypes.c_char, ctypes.c_char, size, size, ctypes.c_float, pointer, size, pointer, size]
    return transpose


_transpose = _mkl()
