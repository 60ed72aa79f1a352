"""The C++ that AOTInductor packs beside each library: the only source for the inputs and constants of some packages.

The constructor lists the constants and the call specs. `check_input_<n>`, which the runtime calls only if
AOTI_RUNTIME_CHECK_INPUTS is set, knows the inputs' dtypes and sizes. Of the outputs the code knows how many there are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from aoti_serve.errors import IncompatiblePackage, UnreadablePackage
from aoti_serve.model.archive import reading
from aoti_serve.model.resident.buffers import padded
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.tensors import CPU, CUDA, DTYPES, Dim, TensorSpec

_BASE = re.compile(r"AOTInductorModelBase\((\d+),\s*(\d+),\s*\d+,\s*device_str,[^;{]*?(true|false)\)")
_FACT = re.compile(r"constants_info_\[(\d+)\]\.(\w+) = (.*);")
_CALL_SPEC = r'{}_spec_ =((?:\s*R"\(.*?\)")+)\s*;'  # in pieces if it is long
_PIECE = re.compile(r'R"\((.*?)\)"')
_INPUT_NAME = re.compile(r'inputs_info_\[\d+\]\.name = "(\w+)";')
_INPUT_CHECK = re.compile(r"static void check_input_\d+\((.*?)\n}", re.S)
_INPUT_SIZES = re.compile(r'assert_size_stride\((\w+), {(.*?)}, .*"input"\)')
_FIXED_THREADS = re.compile(r"#pragma omp parallel.* num_threads\((\d+)\)")
_UNBOUNDED = 2**62


class GeneratedCode:
    """The facts in one model's code. Raises UnreadablePackage if the code is missing or of an unknown kind."""

    def __init__(self, path: Path, model: str) -> None:
        self._path = path
        self._code = _wrapper(path, model)
        base = _BASE.search(self._code)
        if base is None:
            raise UnreadablePackage(path=path, detail=f"the generated code of '{model}' is of an unknown kind")
        self.num_inputs, self.num_outputs = int(base[1]), int(base[2])
        self.carries_weights = base[3] == "true"
        self._on_card = f"= cached_torch_device_type_{CUDA};" in self._code

    def call_spec(self, side: str) -> str:
        """torch's serialised TreeSpec of the arguments (`side` is "in") or of the result ("out")."""
        found = re.search(_CALL_SPEC.format(side), self._code)
        return "".join(_PIECE.findall(found[1])) if found else ""

    @property
    def outputs(self) -> tuple[bool, ...]:
        """For each output: True for a tensor, False for None."""
        written = set(re.findall(r"output_handles\[(\d+)\]", self._code[self._code.rfind("::run_impl(") :]))
        return tuple(str(index) in written for index in range(self.num_outputs))

    @property
    def folds_with_operators(self) -> bool:
        """True if folding calls operators through torch's proxy executor, which does not know them."""
        folding, _, _ = self._code[self._code.find("::_const_run_impl(") :].partition("::run_impl(")
        return "aoti_torch_proxy_executor_call_function" in folding

    @property
    def inputs(self) -> tuple[TensorSpec, ...] | None:
        """The inputs as compiled, called `input_<n>`; None if the code has no checks of them."""
        checks, names = _INPUT_CHECK.findall(self._code), _INPUT_NAME.findall(self._code)
        if not len(checks) == len(names) == self.num_inputs:
            return None
        sizes = {name: text.split(", ") for name, text in _INPUT_SIZES.findall(self._code)}
        symbols = [sizes.get(name, []) for name in names]
        batch = symbols[0][0] if symbols and symbols[0] else None
        named = [["batch" if symbol == batch else symbol for symbol in given] for given in symbols]
        return tuple(self._input(f"input_{index}", *form) for index, form in enumerate(zip(checks, named, strict=True)))

    def constants(self, carried: Collection[str] | None = None) -> tuple[ConstantSpec, ...]:
        """The constants that can be swapped, without those that folding makes of them.

        If its library holds weights, the package carries those in `carried` and those that forward() makes; with None
        all buffers: which of them a `state_dict()` lacks is not known.
        """
        facts: dict[int, dict[str, str]] = defaultdict(dict)
        for index, key, value in _FACT.findall(self._code):
            facts[int(index)][key] = value
        kept = [fact for _, fact in sorted(facts.items()) if fact["from_folded"] == "false"]
        return tuple(self._constant(fact, carried) for fact in kept)

    def _constant(self, fact: Mapping[str, str], carried: Collection[str] | None) -> ConstantSpec:
        name = fact["original_fqn"].strip('"')
        spec = ConstantSpec(
            name=name,
            dtype=self._known(name, fact["dtype"].removeprefix("cached_torch_dtype_")),
            shape=_numbers(fact["shape"]),
            stride=_numbers(fact["stride"]),
            carried=self.carries_weights and _is_carried(name, fact["type"], carried),
            host=self._on_card and fact["device_type"].endswith(f"_{CPU}"),
        )
        if fact["offset"] != "0" or padded(int(fact["data_size"])) != padded(spec.nbytes):
            reason = f"its constant '{name}' is a view of another tensor; make it .contiguous() before the export"
            raise IncompatiblePackage(path=self._path, reason=reason)
        return spec

    def _input(self, name: str, check: str, symbols: Sequence[str]) -> TensorSpec:
        dtype = re.findall(r"aoti_torch_dtype_(\w+)\(\)", check)[0]
        rank = max((int(axis) for axis in re.findall(r"_(?:size|stride)\[(\d+)\]", check)), default=-1) + 1
        return TensorSpec(
            name=name,
            dtype=self._known(name, dtype),
            shape=tuple(_dim(check, axis, symbols, f"{name}_{axis}") for axis in range(rank)),
            order=_order(check, rank),
        )

    def _known(self, name: str, dtype: str) -> str:
        if dtype not in DTYPES:
            reason = f"'{name}' is {dtype}; the dtypes that can be served are {', '.join(DTYPES)}"
            raise IncompatiblePackage(path=self._path, reason=reason)
        return dtype


def _is_carried(name: str, kind: str, carried: Collection[str] | None) -> bool:
    named = kind.endswith("Buffer)") if carried is None else name in carried
    return named or kind.endswith("TensorConstant)")


def fixed_threads(path: Path, model: str) -> int | None:
    """The OpenMP thread count that is compiled in, if one is (without `cpp.dynamic_threads`)."""
    counts = [int(count) for _, code in _sources(path, model) for count in _FIXED_THREADS.findall(code)]
    return max(counts, default=None)


def _order(check: str, rank: int) -> tuple[int, ...] | None:
    """Order dimensions by the strides that are numbers; those that depend on the call are of the slowest dimensions."""
    strides = {int(axis): int(stride) for stride, axis in re.findall(r"\((\d+) != \w+_stride\[(\d+)\]", check)}
    order = sorted(range(rank), key=lambda axis: -strides.get(axis, _UNBOUNDED))
    return tuple(order) if order != sorted(order) else None


def _dim(check: str, axis: int, symbols: Sequence[str], otherwise: str) -> int | Dim:
    """One dimension of an input; `otherwise` is its symbol if the compiler's is not known."""
    if fixed := re.search(rf"\((\d+) != \w+_size\[{axis}\]", check):
        return int(fixed[1])
    low = re.search(rf"_size\[{axis}\] < (\d+)\)", check)
    high = re.search(rf"_size\[{axis}\] > (\d+)\)", check)
    top = int(high[1]) if high else _UNBOUNDED
    symbol = symbols[axis] if axis < len(symbols) else otherwise
    # torch takes every dynamic size to be at least 2, and says so even where 1 was exported (0/1 specialisation).
    least = int(low[1]) if low else 0
    return Dim(symbol=symbol, min=1 if least == 2 else least, max=top if top < _UNBOUNDED else None)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _wrapper(path: Path, model: str) -> str:
    for name, code in _sources(path, model):
        if name.endswith("wrapper.cpp"):
            return code
    detail = f"'{model}' comes without its generated code (*.wrapper.cpp), so its constants are not known"
    raise UnreadablePackage(path=path, detail=f"{detail}; package it again")


def _sources(path: Path, model: str) -> Iterator[tuple[str, str]]:
    folder = f"{reading.MODELS}/{model}/"
    for name in reading.members(path, folder):
        if name.endswith(".cpp") and "/" not in name.removeprefix(folder):
            yield name, (reading.read(path, name) or b"").decode(errors="replace")
