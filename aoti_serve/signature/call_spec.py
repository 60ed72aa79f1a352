"""The nesting of a module's arguments or of its result, and the flat names of the tensors in it.

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
KeyPath = tuple[Any, ...]


class CallSpec(Frozen):
    """A call spec: `spec` is torch's serialised TreeSpec, `leaves` the tensors' flat names in its order.

    A leaf that is no tensor is None in `leaves`, and `fixed` has its value by index if that is not None. `paths` are
    the key paths by flat name, from `ARGS`, `KWARGS` or `RESULT`.
    """

    spec: str
    leaves: tuple[str | None, ...]
    fixed: dict[int, bool | int] = {}
    paths: dict[str, str] = {}

    @classmethod
    def of(
        cls,
        spec: Any,
        leaves: Sequence[str | None],
        roots: Sequence[str],
        fixed: Mapping[int, bool | int] | None = None,
    ) -> CallSpec:
        """The call spec of a TreeSpec whose leaves have these names; `roots` is `CALL` or `RESULT`."""
        from aoti_serve.signature.torch_private import pytree

        named = zip(leaves, key_paths(spec), strict=True)
        paths = {name: _triton_path(path, roots) for name, path in named if name is not None}
        return cls(spec=pytree.treespec_dumps(spec), leaves=tuple(leaves), paths=paths, fixed=dict(fixed or {}))

    def flattened(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tensors of a call by flat name. Raises InvalidInputData if it is nested in another way."""
        from aoti_serve.signature.torch_private import ordered_kwargs, pytree

        try:
            leaves, found = pytree.tree_flatten((args, ordered_kwargs(kwargs, self._treespec)))
        except ValueError as error:
            raise InvalidInputData(name="arguments", detail=str(error)) from error
        if found != self._treespec:
            raise InvalidInputData(name="arguments", detail=f"nested as {found}, the model takes {self._treespec}")
        tensors = {}
        for index, (name, leaf) in enumerate(zip(self.leaves, leaves, strict=True)):
            if name is not None:
                tensors[name] = leaf
            elif not _same(leaf, self.fixed.get(index)):
                detail = f"argument {index} is {leaf!r}, it was {self.fixed.get(index)!r} at export"
                raise InvalidInputData(name="arguments", detail=detail)
        return tensors

    def nested(self, tensors: Mapping[str, Any]) -> Any:
        """Return the module's own result, from its tensors by flat name."""
        from aoti_serve.signature.torch_private import pytree

        leaves = enumerate(self.leaves)
        values = [self.fixed.get(index) if name is None else tensors[name] for index, name in leaves]
        return pytree.tree_unflatten(values, self._treespec)

    @cached_property
    def _treespec(self) -> Any:
        from aoti_serve.signature.torch_private import pytree

        return pytree.treespec_loads(self.spec)


def key_paths(spec: Any) -> list[KeyPath]:
    """The key path of each leaf of a TreeSpec."""
    from aoti_serve.signature.torch_private import pytree

    tree = pytree.tree_unflatten(range(spec.num_leaves), spec)
    return [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]


def key_name(key: Any) -> str:
    """The name of a key in a key path: a dict's key, an attribute, an index."""
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", ""))))


def output_name(path: KeyPath, unnamed: str) -> str:
    """`logits` or `z.0`; `unnamed` if nothing but indices leads to the output."""
    keys = [key_name(key) for key in path]
    return unnamed if all(key.isdigit() for key in keys) else ".".join(keys)


def _triton_path(path: KeyPath, roots: Sequence[str]) -> str:
    from aoti_serve.signature.torch_private import pytree

    if len(roots) == 1:
        return f"{roots[0]}{pytree.keystr(path) or '[0]'}"
    return f"{roots[path[0].idx]}{pytree.keystr(path[1:])}"


def _same(leaf: Any, fixed: object) -> bool:
    """True if both are equal and of one type: 1 is not True."""
    return type(leaf) is type(fixed) and bool(leaf == fixed)
