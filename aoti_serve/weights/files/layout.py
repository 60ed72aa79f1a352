"""How a safetensors file begins: its length of header, its header, and the order of the tensors after it.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aoti_serve.signature.tensors import DTYPES, Shaped, Span


def file_order(tensors: Mapping[str, Shaped | Span]) -> list[str]:
    """The names in the order of the file: the widest dtypes first, so that every tensor is aligned to its dtype."""
    width = {name: DTYPES[tensor.dtype].itemsize if tensor.dtype in DTYPES else 1 for name, tensor in tensors.items()}
    return sorted(tensors, key=lambda name: (-width[name], name))


def header_of(tensors: Mapping[str, Span]) -> bytes:
    """Make the bytes before the first tensor, padded so that the tensors begin at a multiple of 8.

    Of the spans only their lengths count; a dtype that is none of ours keeps its own name.
    """
    entries, end = {}, 0
    for name in file_order(tensors):
        span = tensors[name]
        begin, end = end, end + span.end - span.begin
        code = DTYPES[span.dtype].safetensors if span.dtype in DTYPES else span.dtype
        entries[name] = {"dtype": code, "shape": list(span.shape), "data_offsets": [begin, end]}
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content
