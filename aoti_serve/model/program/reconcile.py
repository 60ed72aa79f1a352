"""Corrects what a signature says of constants by what the compiled library really lets be changed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import torch

from aoti_serve.model.tensor_memory import content_of, memory_key
from aoti_serve.signature.constants import BakedConstant
from aoti_serve.signature.signature import Signature


def reconcile(signature: Signature, values: Mapping[str, torch.Tensor], swappable: Collection[str]) -> Signature:
    """`signature` with the constants that are `swappable` in the library, and the rest by its fate.

    Another name of a swappable tensor is tied to it: the compiler keeps one of several. What is left was compiled in,
    with the value that it has in `values`.
    """
    homes = {memory_key(values[name]): name for name in swappable if name in values}
    tied, baked = {}, []
    for name in [*(spec.name for spec in signature.constants), *signature.unused]:
        if name in swappable or name not in values:
            continue
        home = homes.get(memory_key(values[name]))
        if home is not None:
            tied[name] = home
        elif name not in signature.unused:
            baked.append(_baked(name, values[name]))
    return signature.model_copy(
        update={
            "constants": tuple(spec for spec in signature.constants if spec.name in swappable),
            "unused": tuple(name for name in signature.unused if name not in tied),
            "tied": tied,
            "baked": tuple(baked),
        }
    )


def passing_over(signature: Signature, unread: Collection[str]) -> Signature:
    """`signature` with the baked constants in `unread` as unused: no value of theirs would change an answer."""
    return signature.model_copy(
        update={
            "unused": (*signature.unused, *(spec.name for spec in signature.baked if spec.name in unread)),
            "baked": tuple(spec for spec in signature.baked if spec.name not in unread),
        }
    )


def _baked(name: str, value: torch.Tensor) -> BakedConstant:
    dtype = str(value.dtype).removeprefix("torch.")
    digest = hashlib.sha256(content_of(value).data).hexdigest()
    return BakedConstant(name=name, dtype=dtype, shape=tuple(value.shape), digest=digest)
