"""A file's bytes find their way into a buffer however they are cut, and foreign ones find none."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.errors import ConstantIsBaked, DigestMismatch, TiedTensorsDiffer, UnfitTensor, UnreadableWeights
from aoti_serve.model.aoti.opaque import opaque_bytes, pack_linear
from aoti_serve.model.device.cpu import CpuDevice
from aoti_serve.model.preparation.preparations import prepared
from aoti_serve.model.preparation.recipe import PACKED_LINEAR, Recipe
from aoti_serve.model.resident import buffers
from aoti_serve.model.resident.buffers import ConstantBuffer
from aoti_serve.model.tensor_memory import bytes_of
from aoti_serve.model.weights_in import WeightsStream
from aoti_serve.signature.constants import BakedConstant, Constants, ConstantSpec
from aoti_serve.signature.contents import Bytes
from aoti_serve.signature.tensors import DTYPES, Span

ORDERS = st.sampled_from(["in order", "backwards", "spread"])


def strides(shape: Sequence[int], order: str) -> tuple[int, ...]:
    """As a transposed view has them, or a row-major one with the elements of a row apart where there is one row."""
    if order == "backwards":
        return torch.empty(tuple(reversed(shape))).permute(tuple(reversed(range(len(shape))))).stride()
    usual = torch.empty(tuple(shape)).stride()
    return tuple(99 if size == 1 and order == "spread" else stride for size, stride in zip(shape, usual, strict=True))


@st.composite
def specs(draw: st.DrawFn) -> list[ConstantSpec]:
    found = []
    for number in range(draw(st.integers(1, 5))):
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        stride = strides(shape, draw(ORDERS))
        dtype, host = draw(st.sampled_from(sorted(DTYPES))), draw(st.booleans())
        found.append(ConstantSpec(name=f"c{number}", dtype=dtype, shape=shape, stride=stride, host=host))
    return found


@st.composite
def files(draw: st.DrawFn, constants: Sequence[ConstantSpec]) -> tuple[dict[str, Span], bytes]:
    """The constants in any order after a header, with what is nobody's between them."""
    content = draw(st.binary(min_size=8, max_size=20))
    index = {}
    for spec in draw(st.permutations(constants)):
        value = draw(st.binary(min_size=spec.nbytes, max_size=spec.nbytes))
        if spec.dtype == "bool":
            value = bytes(byte & 1 for byte in value)
        index[spec.name] = Span(spec.dtype, spec.shape, len(content), len(content) + spec.nbytes)
        content += value + draw(st.sampled_from([b"", b"gap"]))
    last = max(span.end for span in index.values())
    return {name: index[name] for name in draw(st.permutations(sorted(index)))}, content[:last]


def cut(content: bytes, at: Sequence[int]) -> Iterator[Bytes]:
    """In memory that others write to, unaligned, and whose every piece must be let go of before the next."""
    places = [0, *sorted(min(place, len(content)) for place in at), len(content)]
    shared = np.empty(len(content) + 1, np.uint8)
    for begin, end in pairwise(places):
        shared[1 : 1 + end - begin] = np.frombuffer(content[begin:end], np.uint8)
        piece = shared[1 : 1 + end - begin]
        piece.flags.writeable = False
        given_out = weakref.ref(piece)
        handed = [piece]
        del piece
        yield handed.pop()
        assert given_out() is None
        shared[:] = 0xAA


def in_file_order(buffer: ConstantBuffer, spec: ConstantSpec) -> bytes:
    found: Bytes = bytes_of(buffer.tensors[spec.name].contiguous()).numpy()
    return found.tobytes()


def filled(
    constants: Constants, index: dict[str, Span], pieces: Iterator[Bytes], *, strict: bool = True
) -> ConstantBuffer:
    buffer = ConstantBuffer(prepared(constants), CpuDevice())
    way = WeightsStream(index, constants)
    with buffer.refilled():
        way.fill(buffer, pieces, {})
        way.check(strict=strict)
    return buffer


@given(st.data(), st.sampled_from([8, 1 << 20]))
def test_every_constant_gets_its_bytes_however_the_file_is_cut(data: st.DataObject, step: int) -> None:
    constants = data.draw(specs())
    index, content = data.draw(files(constants))
    at = data.draw(st.lists(st.integers(0, len(content)), max_size=12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "CHUNK", step)
        buffer = filled(Constants(constants=tuple(constants)), index, cut(content, at))
    for spec in constants:
        assert in_file_order(buffer, spec) == content[index[spec.name].begin : index[spec.name].end], spec


@given(st.data())
def test_a_prepared_constant_is_the_same_however_the_file_is_cut(data: st.DataObject) -> None:
    """Of so many columns that one part has 64 rows, and with rows that fill no part."""
    rows, columns = data.draw(st.sampled_from([(1, 5), (70, 3), (130, 16384)]))
    spec = ConstantSpec(name="weight", dtype="float32", shape=(rows, columns), stride=(columns, 1))
    value = torch.randn(rows, columns)
    content = b"header" + bytes_of(value).numpy().tobytes()
    at = data.draw(st.lists(st.integers(0, len(content)), max_size=6))
    constants = Constants(constants=(spec,))
    buffer = ConstantBuffer(
        prepared(constants, [Recipe(source="weight", constants=(spec,), by=PACKED_LINEAR)]), CpuDevice()
    )
    with buffer.refilled():
        WeightsStream({"weight": Span("float32", spec.shape, 6, len(content))}, constants).fill(
            buffer, cut(content, at), {}
        )
    assert torch.equal(buffer._memory["weight"], opaque_bytes(pack_linear(value)))


@given(st.data())
def test_an_index_that_lies_is_refused_before_a_byte_is_asked_for(data: st.DataObject) -> None:
    """Or is harmless: whatever the offsets say, the memory beside a constant stays as it is."""
    constants = (
        ConstantSpec(name="one", dtype="float32", shape=(3,), stride=(1,)),
        ConstantSpec(name="other", dtype="uint8", shape=(5,), stride=(1,)),
    )
    offsets = st.one_of(st.integers(-40, 80), st.sampled_from([2**31, 2**63, 2**64, 2**70, -(2**63)]))
    index = {spec.name: Span(spec.dtype, spec.shape, data.draw(offsets), data.draw(offsets)) for spec in constants}
    if data.draw(st.booleans()):
        index["unused"] = Span("F4", (2**70,), data.draw(offsets), data.draw(offsets))
    known = Constants(constants=constants, unused=("unused",))
    buffer = ConstantBuffer(prepared(known), CpuDevice())
    (block, _) = buffer._blocks
    block.tensor.fill_(7)
    content = bytes(range(1, 81))
    try:
        way = WeightsStream(index, known)
    except UnfitTensor:
        return
    assert all(span.end - span.begin == spec.nbytes for spec, span in zip(constants, index.values(), strict=False))
    try:
        with buffer.refilled():
            way.fill(buffer, cut(content, [10, 20]), {})
    except UnreadableWeights:
        pass
    beside = torch.ones(len(block.tensor), dtype=torch.bool)
    beside[:12] = beside[64 : 64 + 5] = False
    assert (block.tensor[beside] == 7).all()


MATRIX = ConstantSpec(name="matrix", dtype="float32", shape=(2, 2), stride=(2, 1))
MASK = ConstantSpec(name="mask", dtype="bool", shape=(4,), stride=(1,))
EMPTY = ConstantSpec(name="empty", dtype="float32", shape=(0, 3), stride=(3, 1))
BAKED = BakedConstant(name="gain", dtype="uint8", shape=(2,), digest=hashlib.sha256(b"\x01\x02").hexdigest())
KNOWN = Constants(constants=(MATRIX, MASK, EMPTY), tied={"again": "matrix", "none": "empty"}, baked=(BAKED,))
FOUR = bytes(range(16))


def laid_out(**values: bytes) -> tuple[dict[str, Span], bytes]:
    """A file of these constants, in this order."""
    forms: dict[str, ConstantSpec | BakedConstant] = {
        "matrix": MATRIX,
        "again": MATRIX,
        "mask": MASK,
        "empty": EMPTY,
        "none": EMPTY,
        "gain": BAKED,
    }
    content, index = b"header", {}
    for name, value in values.items():
        begin, content = len(content), content + value
        index[name] = Span(forms[name].dtype, forms[name].shape, begin, len(content))
    return index, content


@pytest.mark.parametrize("names", [("matrix", "again"), ("again", "matrix"), ("again",)])
def test_names_of_one_constant_agree(names: tuple[str, ...]) -> None:
    index, content = laid_out(**dict.fromkeys(names, FOUR), mask=bytes(4), empty=b"", none=b"", gain=b"\x01\x02")
    assert in_file_order(filled(KNOWN, index, cut(content, [9, 10, 25])), MATRIX) == FOUR


def test_names_of_one_constant_that_differ_are_refused() -> None:
    index, content = laid_out(again=FOUR, mask=bytes(4), matrix=FOUR[::-1], empty=b"")
    with pytest.raises(TiedTensorsDiffer, match=r"'again'.*'matrix'"):
        filled(KNOWN, index, cut(content, [9]))


@pytest.mark.parametrize("value", [b"\x01\x03", b"\x00\x00"])
def test_another_value_of_a_baked_constant_is_refused_or_warned_of(value: bytes) -> None:
    index, content = laid_out(matrix=FOUR, mask=bytes(4), empty=b"", gain=value)
    with pytest.raises(ConstantIsBaked, match="'gain'"):
        filled(KNOWN, index, cut(content, []))
    with pytest.warns(UserWarning, match="'gain'"):
        filled(KNOWN, index, cut(content, []), strict=False)


@pytest.mark.parametrize("at", [23, 24, 25])
def test_a_bool_that_is_none_is_refused_by_name(at: int) -> None:
    index, content = laid_out(matrix=FOUR, mask=b"\x00\x01\x02\x00", empty=b"")
    with pytest.raises(UnfitTensor, match=r"'mask'.* 2 "):
        filled(KNOWN, index, cut(content, [at]))


def test_damage_is_told_as_what_it_is_and_not_by_what_it_did_to_a_value() -> None:
    index, content = laid_out(again=FOUR, mask=b"\x09\x09\x09\x09", matrix=FOUR[::-1], empty=b"", gain=b"\x00\x00")

    def damaged() -> Iterator[Bytes]:
        yield from cut(content, [20])
        raise DigestMismatch(got="this", expected="that")

    with pytest.raises(DigestMismatch):
        filled(KNOWN, index, damaged())


@pytest.mark.parametrize("change", [-1, -20, 1, 50])
@pytest.mark.parametrize("at", [[], [3, 7], list(range(80))])
def test_another_length_than_the_files_is_refused(change: int, at: list[int]) -> None:
    index, content = laid_out(matrix=FOUR, mask=bytes(4), empty=b"")
    content = (content + bytes(50))[: len(content) + change]
    with pytest.raises(UnreadableWeights, match=f"of a file of {len(content) - change}"):
        filled(KNOWN, index, cut(content, at))


def test_bytes_that_do_not_lie_in_order_are_taken_all_the_same() -> None:
    index, content = laid_out(matrix=FOUR, mask=bytes(4), empty=b"", gain=b"\x01\x02")
    spread = np.repeat(np.frombuffer(content, np.uint8), 2)[::2]
    assert not spread.flags.contiguous
    assert in_file_order(filled(KNOWN, index, iter([spread])), MATRIX) == FOUR


@pytest.mark.parametrize("size", [1, 3, 15, 16])
def test_a_constant_is_gathered_from_any_number_of_pieces(size: int) -> None:
    turned = MATRIX.model_copy(update={"stride": (1, 2)})
    content = bytes(8) + FOUR
    index = {"matrix": Span("float32", (2, 2), 8, 24)}
    buffer = filled(Constants(constants=(turned,)), index, cut(content, range(8, 24, size)))
    assert in_file_order(buffer, turned) == FOUR


def test_a_constant_is_gathered_only_where_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[str] = []
    real = ConstantBuffer.fill

    def note(self: ConstantBuffer, values: Mapping[str, torch.Tensor]) -> None:
        gathered.extend(values)
        real(self, values)

    monkeypatch.setattr(ConstantBuffer, "fill", note)
    turned = MATRIX.model_copy(update={"name": "turned", "stride": (1, 2)})
    constants = Constants(constants=(MATRIX, turned, MASK))
    index = {
        "matrix": Span("float32", (2, 2), 8, 24),
        "turned": Span("float32", (2, 2), 24, 40),
        "mask": Span("bool", (4,), 40, 44),
    }
    filled(constants, index, cut(bytes(44), [30]))
    assert gathered == ["turned"]
