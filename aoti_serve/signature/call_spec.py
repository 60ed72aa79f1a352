"""How a module nests its arguments or its result, and the flat names of the tensors in there.

`forward(user: {"age": Tensor}, items: [Tensor], *, mask=None)` takes `user.age` and `items.0`; Triton would call them
`ARGS[0]['age']` and `ARGS[1][0]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from aoti_serve.errors import InvalidInputData
from aoti_serve.signature.tensors import Frozen

CALL, RESULT = ("ARGS", "KWARGS"), ("RESULT",)


class CallSpec(Frozen):
    """A call spec: `spec` is torch's serialised TreeSpec, `leaves` the tensors' flat names in its order.

    A leaf that is no tensor is None in `leaves`, and `fixed` has its value by index if that is not None. `paths` are
    the key paths by flat name, from `ARGS`, `KWARGS` or `RESULT`.
    """

    spec: str
    leaves: tuple[str | None, ...]
    fixed: dict[int, bool | int] = {}
    paths: dict[str, str] = {}

    def flattened(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a call, by flat name. Raises InvalidInputData if it is nested in another way."""
        from aoti_serve.signature.torch_private import ordered_kwargs, pytree

        try:
            leaves, found = pytree.tree_flatten((args, ordered_kwargs(kwargs, self._treespec)))
        except ValueError as error:
            raise InvalidInputData(name="arguments", detail=str(error)) from error
        if found != self._treespec:
            raise InvalidInputData(name="arguments", detail=f"nested as {found}, the model takes {self._treespec}")
        named = dict(zip(self.leaves, leaves, strict=True))
        for index, (name, leaf) in enumerate(zip(self.leaves, leaves, strict=True)):
            if name is None and not _same(leaf, self.fixed.get(index)):
                detail = f"argument {index} is {leaf!r}, it was {self.fixed.get(index)!r} at export"
                raise InvalidInputData(name="arguments", detail=detail)
        return {name: leaf for name, leaf in named.items() if name is not None}

    def nested(self, tensors: Mapping[str, Any]) -> Any:
        """The module's own result, from its tensors by flat name."""
        from aoti_serve.signature.torch_private import pytree

        leaves = enumerate(self.leaves)
        values = [self.fixed.get(index) if name is None else tensors[name] for index, name in leaves]
        return pytree.tree_unflatten(values, self._treespec)

    @cached_property
    def _treespec(self) -> Any:
        from aoti_serve.signature.torch_private import pytree

        return pytree.treespec_loads(self.spec)


def key_name(key: Any) -> str:
    """What a key of torch's key paths is called: a dict's key, an attribute, an index."""
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", ""))))


def triton_path(path: tuple[Any, ...], roots: Sequence[str]) -> str:
    """`ARGS[0]['age']` or `KWARGS['x']` with `CALL` for roots, `RESULT[0]` with `RESULT`."""
    from aoti_serve.signature.torch_private import pytree

    if len(roots) == 1:
        return f"{roots[0]}{pytree.keystr(path) or '[0]'}"
    return f"{roots[path[0].idx]}{pytree.keystr(path[1:])}"


def _same(leaf: Any, fixed: object) -> bool:
    """Equal and of one type: 1 is not True, and a tensor or an array is nothing that was fixed."""
    return type(leaf) is type(fixed) and bool(leaf == fixed)
