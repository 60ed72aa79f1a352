"""What only the bytes can tell: tied names that differ, and values that were compiled in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from aoti_serve.errors import ConstantIsBaked, NotFinite, TiedTensorsDiffer
from aoti_serve.signature.constants import BakedConstant, Constants, ConstantSpec
from aoti_serve.weights.files import index as files
from aoti_serve.weights.files.index import file_chunks, read_index
from aoti_serve.weights.intake import check_values

COMPILED: NDArray[Any] = np.arange(5, dtype=np.float64)
CONSTANTS = Constants(
    constants=(ConstantSpec(name="embed", dtype="float32", shape=(1000,), stride=(1,)),),
    tied={"head": "embed", "copy": "embed"},
    baked=(
        BakedConstant(name="scale", dtype="float64", shape=(5,), digest=hashlib.sha256(COMPILED.tobytes()).hexdigest()),
    ),
)
EMBED: NDArray[Any] = np.linspace(0, 1, 1000, dtype=np.float32)


def checked(
    folder: Path, arrays: dict[str, NDArray[Any]], *, strict: bool = True, accepts_any: bool = False
) -> list[str]:
    path = folder / "w.safetensors"
    save_file(arrays, path)
    return check_values(path, read_index(path), CONSTANTS, strict=strict, accepts_any=accepts_any)


@pytest.fixture(autouse=True, params=[64, files.CHECK_CHUNK_BYTES])
def piece_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHECK_CHUNK_BYTES", request.param)


@pytest.mark.parametrize("names", [["embed"], ["head"], ["embed", "head", "copy"], ["head", "copy"]])
def test_names_of_one_constant_with_one_value_pass(tmp_path: Path, names: list[str]) -> None:
    assert checked(tmp_path, dict.fromkeys(names, EMBED)) == []


@pytest.mark.parametrize(
    ("names", "tied"), [(["embed", "head"], "embed"), (["head", "copy"], "copy"), (["copy", "embed", "head"], "embed")]
)
def test_names_of_one_constant_with_two_values_are_refused(tmp_path: Path, names: list[str], tied: str) -> None:
    other = EMBED.copy()
    other[-1] += 1
    arrays = dict.fromkeys(names, EMBED) | {"head": other}
    with pytest.raises(TiedTensorsDiffer) as caught:
        checked(tmp_path, arrays)
    assert {caught.value.facts["name"], caught.value.facts["tied"]} == {"head", tied}


def test_the_same_bits_are_the_same_value_also_if_they_are_no_number(tmp_path: Path) -> None:
    nothing = np.full(1000, np.nan, np.float32)
    assert checked(tmp_path, {"embed": nothing, "head": nothing}, accepts_any=True) == []


def test_what_is_no_number_is_counted_by_tensor_unless_that_is_not_asked_for(tmp_path: Path) -> None:
    diverged = EMBED.copy()
    diverged[::10] = np.nan
    with pytest.raises(NotFinite, match="tensor 'embed': 100 NaN and 0 infinite of 1000 values"):
        checked(tmp_path, {"embed": diverged})
    assert checked(tmp_path, {"embed": diverged}, accepts_any=True) == []


def test_the_compiled_value_passes(tmp_path: Path) -> None:
    assert checked(tmp_path, {"embed": EMBED, "scale": COMPILED}) == []


def test_another_value_of_a_baked_constant_is_refused_or_named(tmp_path: Path) -> None:
    arrays = {"embed": EMBED, "scale": COMPILED + 1}
    with pytest.raises(ConstantIsBaked, match="tensor 'scale'"):
        checked(tmp_path, arrays)
    assert checked(tmp_path, arrays, strict=False) == ["scale"]


def test_a_file_that_ends_within_a_tensor_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"embed": EMBED}, path)
    index = read_index(path)
    path.write_bytes(path.read_bytes()[:-1])
    with path.open("rb") as file, pytest.raises(OSError, match="1 byte early"):
        list(file_chunks(file, index["embed"]))
