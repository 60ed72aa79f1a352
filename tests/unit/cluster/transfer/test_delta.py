"""What a trainer sends of its changes: what it made of them is what the coordinator makes of the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from aoti_serve import ElementChanges, RowChanges, make_delta, save_delta
from aoti_serve.cluster.transfer.delta import Delta, WeightChanges
from aoti_serve.cluster.transfer.upload import upload_stream
from aoti_serve.errors import UnfitTensor
from aoti_serve.weights.files.delta import delta_parts
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.files.merge import merge_weights, parts_in

State = dict[str, torch.Tensor]
TABLE = torch.arange(4000, dtype=torch.float32).reshape(100, 40)


def applied(folder: Path, before: State, delta: Path) -> State:
    """What the coordinator makes of it."""
    save_file(before, folder / "base")
    with (folder / "base").open("rb") as base_file, delta.open("rb") as delta_file:
        base = parts_in(base_file, read_index(folder / "base"))
        changes = delta_parts(parts_in(delta_file, read_index(delta)), base, {})
        merge_weights(base, changes, folder / "target", {})
    return load_file(folder / "target")


def assert_same_bits(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].contiguous().numpy(force=True).tobytes() == tensor.contiguous().numpy(force=True).tobytes()


@settings(max_examples=100, deadline=None)
@given(
    shape=st.lists(st.integers(0, 6), max_size=3),
    changed=st.lists(st.integers(0, 215), max_size=20),
    transposed=st.booleans(),
)
def test_a_delta_of_two_state_dicts_makes_the_one_of_the_other(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], changed: list[int], transposed: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    before = {"w": torch.randn(shape), "same": torch.full((3,), torch.nan)}
    after = {name: tensor.clone() for name, tensor in before.items()}
    for at in changed:
        if at < after["w"].numel():
            after["w"].view(-1)[at] = torch.nan
    if transposed and len(shape) == 2:
        before["w"], after["w"] = (state["w"].T.contiguous().T for state in (before, after))
    save_delta(make_delta(before, after), folder / "delta", "0" * 64)
    assert_same_bits(applied(folder, {name: w.contiguous() for name, w in before.items()}, folder / "delta"), after)


def with_rows(*rows: int) -> torch.Tensor:
    table = TABLE.clone()
    table[list(rows)] += 1
    return table


def test_few_rows_are_rows_few_elements_are_elements_and_much_is_the_whole() -> None:
    scattered = TABLE.clone()
    scattered[:, 0] += 1
    after = {"rows": with_rows(7, 3), "elements": scattered, "whole": TABLE + 1, "same": TABLE.clone()}
    found = make_delta(dict.fromkeys(after, TABLE), after)
    rows, elements = found["rows"], found["elements"]
    assert isinstance(rows, RowChanges)
    assert (rows.rows.tolist(), rows.values.shape) == ([3, 7], (2, 40))
    assert isinstance(elements, ElementChanges)
    assert (elements.elements.tolist(), elements.values.shape) == (list(range(0, 4000, 40)), (100,))
    assert found["whole"] is after["whole"] or torch.equal(torch.as_tensor(found["whole"]), after["whole"])
    assert found.keys() == {"rows", "elements", "whole"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_any_dtype_is_compared_by_its_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    before, after = {"w": TABLE.to(dtype)}, {"w": with_rows(2).to(dtype)}
    after["w"][5, 5] = 0
    save_delta(make_delta(before, after), tmp_path / "delta", "0" * 64)
    found = applied(tmp_path, before, tmp_path / "delta")
    assert torch.equal(found["w"].view(torch.uint8), after["w"].view(torch.uint8))


def test_minus_zero_is_a_change() -> None:
    assert make_delta({"w": torch.zeros(100)}, {"w": -torch.zeros(100)}).keys() == {"w"}
    assert make_delta({"w": torch.zeros(100)}, {"w": torch.zeros(100)}) == {}


def test_gradients_and_parameters_are_no_hindrance(tmp_path: Path) -> None:
    module = torch.nn.Embedding(100, 8)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        module.weight[[4, 90]] = 1.0
    save_delta(make_delta(before, dict(module.named_parameters())), tmp_path / "delta", "0" * 64)
    assert_same_bits(applied(tmp_path, before, tmp_path / "delta"), module.state_dict())


def test_another_shape_is_sent_whole_for_the_coordinator_to_judge() -> None:
    after = torch.zeros(3)
    assert make_delta({"w": torch.zeros(2)}, {"w": after})["w"] is not None
    with pytest.raises(UnfitTensor, match="tensor 'v': only one of both state dicts has it"):
        make_delta({"w": after}, {"w": after, "v": after})


async def test_the_file_names_its_base_and_is_sent_as_it_is_saved(tmp_path: Path) -> None:
    changes: WeightChanges = {"w": RowChanges(torch.tensor([1, 3]), torch.ones(2, 4)), "b": torch.ones(3)}
    save_delta(changes, tmp_path / "delta", "ab" * 32)
    sent = b"".join([bytes(piece) async for piece in upload_stream(Delta(changes, "ab" * 32))])
    assert sent == (tmp_path / "delta").read_bytes()
    with safe_open(tmp_path / "delta", framework="pt") as file:
        assert file.metadata() == {"base_digest": "ab" * 32}
        assert set(file.keys()) == {"w::rows", "w::values", "b"}


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnfitTensor, match=r"tensor 'w::rows': a list instead of a tensor"):
        save_delta({"w": RowChanges([1], torch.ones(1, 4))}, tmp_path / "delta", "0" * 64)  # type: ignore[arg-type]
