"""The C++ that AOTInductor packs beside each library: nothing else tells what a model takes and keeps.

The constructor lists the constants and the call specs. `check_input_<n>`, which the runtime calls only if
AOTI_RUNTIME_CHECK_INPUTS is set, knows the inputs' dtypes and sizes. Of outputs the code knows how many there are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from aoti_serve.constants import ConstantSpec
from aoti_serve.errors import IncompatiblePackage, UnreadablePackage
from aoti_serve.model import archive
from aoti_serve.model.buffers import padded
from aoti_serve.tensors import DTYPES, Dim, TensorSpec

_BASE = re.compile(r"AOTInductorModelBase\((\d+),\s*(\d+),\s*\d+,\s*device_str,[^;{]*?(true|false)\)")
_FACT = re.compile(r"constants_info_\[(\d+)\]\.(\w+) = (.*);")
_CALL_SPEC = r'{}_spec_ =((?:\s*R"\(.*?\)")+)\s*;'  # in pieces if it is long
_PIECE = re.compile(r'R"\((.*?)\)"')
_INPUT_NAME = re.compile(r'inputs_info_\[\d+\]\.name = "(\w+)";')
_INPUT_CHECK = re.compile(r"static void check_input_\d+\((.*?)\n}", re.S)
_INPUT_SIZES = re.compile(r'assert_size_stride\((\w+), {(.*?)}, .*"input"\)')
_RUN = "::run_impl("
_FIXED_THREADS = re.compile(r"#pragma omp parallel.* num_threads\((\d+)\)")
_UNBOUNDED = 2**62


class GeneratedCode:
    """What one model's code says of it. Raises UnreadablePackage if the code is missing or is none that is known."""

    def __init__(self, path: Path, model: str) -> None:
        self._path = path
        self._code = _wrapper(path, model)
        base = _BASE.search(self._code)
        if base is None:
            raise UnreadablePackage(path=path, detail=f"the generated code of '{model}' is of an unknown kind")
        self.num_inputs, self.num_outputs = int(base[1]), int(base[2])
        self.carries_weights = base[3] == "true"

    def call_spec(self, side: str) -> str:
        """torch's serialised TreeSpec of the arguments (`side` is "in") or of the result ("out")."""
        found = re.search(_CALL_SPEC.format(side), self._code)
        return "".join(_PIECE.findall(found[1])) if found else ""

    @property
    def outputs(self) -> tuple[bool, ...]:
        """For each output whether it is a tensor; else it is None."""
        written = set(re.findall(r"output_handles\[(\d+)\]", self._code[self._code.rfind(_RUN) :]))
        return tuple(str(index) in written for index in range(self.num_outputs))

    @property
    def inputs(self) -> tuple[TensorSpec, ...] | None:
        """The inputs as compiled, by the names `input_<n>`; None if this code does not tell."""
        checks = _INPUT_CHECK.findall(self._code)
        symbols = dict(_INPUT_SIZES.findall(self._code))
        known = [symbols.get(name, "").split(",") for name in _INPUT_NAME.findall(self._code)]
        if not len(checks) == len(known) == self.num_inputs:
            return None
        batch = next(iter(known), [""])[0]
        return tuple(
            self._input(f"input_{index}", check, ["batch" if size == batch else size.strip() for size in sizes])
            for index, (check, sizes) in enumerate(zip(checks, known, strict=True))
        )

    def constants(self, carried: Collection[str] = ()) -> tuple[ConstantSpec, ...]:
        """Those that can be swapped, not those that folding makes of them.

        The package carries those in `carried` and those that forward() makes, if its library holds weights.
        """
        facts: dict[int, dict[str, str]] = defaultdict(dict)
        for index, key, value in _FACT.findall(self._code):
            facts[int(index)][key] = value
        kept = [fact for _, fact in sorted(facts.items()) if fact["from_folded"] == "false"]
        return tuple(self._constant(fact, carried) for fact in kept)

    def _constant(self, fact: Mapping[str, str], carried: Collection[str]) -> ConstantSpec:
        name = fact["original_fqn"].strip('"')
        lifted = fact["type"].endswith("TensorConstant)")
        spec = ConstantSpec(
            name=name,
            dtype=self._dtype(name, fact["dtype"].removeprefix("cached_torch_dtype_")),
            shape=_sizes(fact["shape"]),
            stride=_sizes(fact["stride"]),
            carried=self.carries_weights and (lifted or name in carried),
        )
        if fact["offset"] != "0" or padded(int(fact["data_size"])) != padded(spec.nbytes):
            reason = f"its constant '{name}' is a view of another tensor; make it .contiguous() before the export"
            raise IncompatiblePackage(path=self._path, reason=reason)
        return spec

    def _input(self, name: str, check: str, symbols: list[str]) -> TensorSpec:
        dtype = re.findall(r"aoti_torch_dtype_(\w+)\(\)", check)[0]
        rank = max((int(axis) for axis in re.findall(r"_(?:size|stride)\[(\d+)\]", check)), default=-1) + 1
        dims = [_dim(check, axis, symbols[axis] if axis < len(symbols) else "") for axis in range(rank)]
        named = [
            dim if isinstance(dim, int) or dim.symbol.isidentifier() else dim.model_copy(update={"symbol": f"{name}_{axis}"})
            for axis, dim in enumerate(dims)
        ]
        return TensorSpec(name=name, dtype=self._dtype(name, dtype), shape=tuple(named))

    def _dtype(self, name: str, dtype: str) -> str:
        if dtype not in DTYPES:
            reason = f"'{name}' is {dtype}; the dtypes that can be served are {', '.join(DTYPES)}"
            raise IncompatiblePackage(path=self._path, reason=reason)
        return dtype


def fixed_threads(path: Path, model: str) -> int | None:
    """The OpenMP thread count that is compiled in, if one is (without `cpp.dynamic_threads`)."""
    counts = [int(count) for _, code in _sources(path, model) for count in _FIXED_THREADS.findall(code)]
    return max(counts, default=None)
