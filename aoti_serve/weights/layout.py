"""How a safetensors file begins: its length of header, its header, and the order of the tensors after it.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from aoti_serve.tensors import DTYPES, Shaped


def file_order(tensors: Mapping[str, Shaped]) -> list[str]:
    """The names in the order of their bytes: the widest dtypes first, so that every tensor is aligned to its own."""
    return sorted(tensors, key=lambda name: (-DTYPES[tensors[name].dtype].itemsize, name))


def header_of(tensors: Mapping[str, Shaped]) -> bytes:
    """All bytes before the first tensor's, padded so that the tensors begin at a multiple of 8."""
    entries, end = {}, 0
    for name in file_order(tensors):
        dtype, shape = tensors[name]
        begin, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        entries[name] = {"dtype": DTYPES[dtype].safetensors, "shape": list(shape), "data_offsets": [begin, end]}
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content
