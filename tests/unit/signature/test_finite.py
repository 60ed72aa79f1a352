"""Values that are no finite numbers, against numpy and ml_dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aoti_serve.errors import NotFinite
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.signature.finite import FiniteCheck
from aoti_serve.signature.tensors import DTYPES

# Every float that a package may hold: of one without an entry in `finite` a NaN would pass.
NUMPY: dict[str, Any] = {
    dtype.torch: np.dtype(getattr(ml_dtypes, dtype.torch) if dtype.raw else dtype.numpy)
    for dtype in DTYPES.values()
    if "float" in dtype.torch
}


def check_of(dtype: str, size: int, *, finite: bool = True) -> FiniteCheck:
    spec = ConstantSpec(name="w", dtype=dtype, shape=(size,), stride=(1,), finite=finite)
    return FiniteCheck(["w", "tied", "unused"], Constants(constants=(spec,), tied={"tied": "w"}, unused=("unused",)))


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("finite", [True, False])
@given(st.data())
def test_what_is_counted_is_what_numpy_says(dtype: str, finite: bool, data: st.DataObject) -> None:
    """Of any bits, cut at any element."""
    width = np.dtype(NUMPY[dtype]).itemsize
    size, cut = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 40))
    drawn = data.draw(st.binary(min_size=size * width, max_size=size * width))
    content: NDArray[np.uint8] = np.frombuffer(drawn, np.uint8)
    with np.errstate(invalid="ignore"):  # a NaN that signals
        values = content.view(NUMPY[dtype]).astype(np.float64)
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum()) if finite else 0
    check = check_of(dtype, size, finite=finite)
    for part in (content[: cut * width], content[cut * width :]):
        check.take("w", part)
    if nan or infinite:
        with pytest.raises(NotFinite) as caught:
            check.finish()
        found = {"name": "w", "nan": nan, "infinite": infinite, "size": size, "tensors": 1}
        assert {name: caught.value.facts[name] for name in found} == found
    else:
        check.finish()


def test_only_numbers_that_the_code_reads_are_looked_at() -> None:
    check = check_of("float32", 1)
    assert [check.reads(name) for name in ("w", "tied", "unused")] == [True, True, False]
    assert not check_of("int64", 1).reads("w")


def test_the_error_says_where_how_many_and_what_to_do() -> None:
    check = check_of("float32", 3)
    for name in ("tied", "w"):
        check.take(name, np.array([np.nan, np.inf, 1], np.float32).view(np.uint8))
    with pytest.raises(NotFinite) as caught:
        check.finish()
    text = str(caught.value)
    assert "tensor 'tied': 1 NaN and 1 infinite of 3 values; such values are in 2 tensors of these weights" in text
    assert "--skip-acceptance" in text
