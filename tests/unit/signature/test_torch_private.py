"""What we borrow from torch's private parts, in the version that it was read in.

If one of these tests fails, read the function again, and what `aoti_serve/signature/torch_private.py` says of it; then
note the new digest. What is a whole subsystem (the compiler) is held to its arguments only: the tests of packages and
of their answers say the rest.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import pytest
import torch
import torch._inductor
from torch._guards import detect_fake_mode
from torch._ops import HigherOrderOperator, OpOverload
from torch.export._tree_utils import reorder_kwargs
from torch.export.dynamic_shapes import _combine_args, _tree_map_with_path
from torch.export.pt2_archive._package import PT2ArchiveReader, _load_exported_programs, package_pt2
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

READ_IN = "2.13.0"
LEANED_ON: dict[Any, str] = {
    detect_fake_mode: "29c2e083e96d",
    reorder_kwargs: "2bd1541b0f7e",
    _combine_args: "3b463d5c40bf",
    _tree_map_with_path: "5df73dff6ed6",
    is_traceable_wrapper_subclass: "1d97b30149f2",
    _load_exported_programs: "bf8dea21e5f2",
    pytree.tree_flatten: "8961e2f25a32",
    pytree.tree_unflatten: "2f908e013cc8",
    pytree.tree_leaves: "5fdc4a1e690f",
    pytree.tree_map_only: "187c313a3944",
    pytree.tree_flatten_with_path: "25a5183e18de",
    pytree.tree_structure: "4195c1306bff",
    pytree.treespec_dumps: "376b5caffb77",
    pytree.treespec_loads: "6ab80c9d53c0",
    pytree.treespec_tuple: "67d02ae763ee",
    pytree.treespec_leaf: "79c20cc615ec",
    pytree.keystr: "9bd68888c666",
}
TAKES = {
    torch._inductor.aot_compile: ["gm", "args", "kwargs", "options"],
    package_pt2: ["f", "aoti_files"],
    PT2ArchiveReader.__init__: ["archive_path_or_buffer"],
}


@pytest.mark.parametrize(("source", "noted"), LEANED_ON.items(), ids=lambda value: getattr(value, "__qualname__", ""))
def test_torch_does_what_it_did_when_it_was_read(source: Any, noted: str) -> None:
    found = hashlib.sha256(inspect.getsource(source).encode()).hexdigest()[:12]
    assert found == noted, f"read it again; it was read in {READ_IN}"


@pytest.mark.parametrize(("source", "names"), TAKES.items(), ids=lambda value: getattr(value, "__qualname__", ""))
def test_torch_takes_what_it_took(source: Any, names: list[str]) -> None:
    assert set(names) <= set(inspect.signature(source).parameters)


def test_an_operator_tells_its_name_and_its_schema() -> None:
    add = torch.ops.aten.add_.Tensor
    assert isinstance(add, OpOverload)
    assert (add._name, add._schema.is_mutable) == ("aten::add_.Tensor", True)
    assert torch.ops.aten.add.Tensor._schema.is_mutable is False
    assert isinstance(torch.ops.higher_order.cond, HigherOrderOperator)
    assert torch.ops.higher_order.cond._name == "cond"
