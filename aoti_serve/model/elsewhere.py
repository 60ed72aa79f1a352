"""Packages that export did not make: what can be known of them without running their code.

AOTInductor packs the C++ that it generated beside the library. It lists the constants with shapes and strides, and the
call specs; names, dtypes and ranges of inputs and outputs are in an exported program in the same archive, or nowhere:
then the configuration must declare them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from torch.utils import _pytree as pytree

from aoti_serve.config import DeclaredSignature
from aoti_serve.constants import ConstantSpec
from aoti_serve.errors import UnknownSignature, UnreadablePackage
from aoti_serve.model import archive
from aoti_serve.model.signature import Signature
from aoti_serve.model.tree import Tree

_FACT = re.compile(r"constants_info_\[(\d+)\]\.(\w+) = (.*);")
_SPEC = re.compile(r'(in|out)_spec_ = R"\((.*)\)";')
_BUILT_IN = re.compile(r"std::move\(cubin_dir\),\s*(true|false)\)")
_FIXED_THREADS = re.compile(r"#pragma omp parallel num_threads\((\d+)\)")


def signature_of(path: Path, model: str, declared: DeclaredSignature | None) -> Signature:
    """The signature from the exported program in the archive, else as declared; constants from the generated code.

    Raises UnknownSignature with the lines to add to the configuration if there is neither.
    """
    code = _generated(path, model)
    if declared is not None:
        return _declared(code, declared)
    if archive.read(path, f"models/{model}.json") is None:
        raise UnknownSignature(path=path, snippet=_snippet(code))
    from aoti_serve.model.program import stored_program
    from aoti_serve.model.reconcile import reconciled

    program = stored_program(path, model)
    carried = {spec.name for spec in program.signature.constants if spec.carried}
    constants = tuple(_constants(code, carried))
    signature = reconciled(program.signature, program.values, {spec.name for spec in constants})
    return signature.model_copy(update={"constants": constants})


def _declared(code: str, declared: DeclaredSignature) -> Signature:
    specs = dict(_SPEC.findall(code))
    return Signature(
        inputs=declared.inputs,
        outputs=declared.outputs,
        takes=_tree(specs.get("in", ""), [spec.name for spec in declared.inputs]),
        gives=_tree(specs.get("out", ""), [spec.name for spec in declared.outputs]),
        constants=tuple(_constants(code, declared.carried)),
        unused=declared.unused,
    )


def carries_weights(path: Path, model: str) -> bool:
    """Whether the library holds weights; true where the generated code does not say."""
    found = _BUILT_IN.search(_generated(path, model))
    return found is None or found[1] == "true"


def fixed_threads(path: Path, model: str) -> int | None:
    """The OpenMP thread count that is compiled in, if one is (without `cpp.dynamic_threads`)."""
    counts = [int(count) for _, code in _sources(path, model) for count in _FIXED_THREADS.findall(code)]
    return max(counts, default=None)


def _constants(code: str, carried: Collection[str]) -> Iterator[ConstantSpec]:
    facts: dict[int, dict[str, str]] = defaultdict(dict)
    for index, key, value in _FACT.findall(code):
        facts[int(index)][key] = value
    built_in = (found := _BUILT_IN.search(code)) is None or found[1] == "true"
    for _, fact in sorted(facts.items()):
        if fact["from_folded"] == "true":
            continue
        name = fact["original_fqn"].strip('"')
        lifted = fact["type"].endswith("TensorConstant)")
        yield ConstantSpec(
            name=name,
            dtype=fact["dtype"].removeprefix("cached_torch_dtype_"),
            shape=_sizes(fact["shape"]),
            stride=_sizes(fact["stride"]),
            carried=built_in and (lifted or name in carried),
        )


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in re.findall(r"\d+", text))


def _generated(path: Path, model: str) -> str:
    for name, code in _sources(path, model):
        if name.endswith("wrapper.cpp"):
            return code
    raise UnreadablePackage(
        path=path, detail=f"'{model}' comes without its generated code, so its constants are unknown"
    )


def _sources(path: Path, model: str) -> Iterator[tuple[str, str]]:
    for name in archive.members(path, f"{archive.MODELS}/{model}/"):
        if name.endswith(".cpp"):
            yield name, (archive.read(path, name) or b"").decode(errors="replace")


def _snippet(code: str) -> str:
    """The lines to add under the model's entry, with a blank for what only its maker knows."""
    specs = dict(_SPEC.findall(code))
    lines = ["signature:"]
    for kind, spec in (("inputs", specs.get("in", "")), ("outputs", specs.get("out", ""))):
        lines.append(f"  {kind}:")
        lines += [f"    - {{name: {name}, dtype: float32, shape: [batch=1..64, 16]}}" for name in _names(kind, spec)]
    return "\n".join(lines)


def _names(kind: str, spec: str) -> list[str]:
    paths = _paths(spec)
    if paths is None:
        return [kind.removesuffix("s")]
    keys = [[str(getattr(key, "key", getattr(key, "idx", ""))) for key in path] for path in paths]
    return [".".join(parts[1:] if kind == "inputs" else parts) or "output" for parts in keys]


def _tree(spec: str, names: list[str]) -> Tree | None:
    """The nesting with the declared names; None if it has leaves that were not declared, or cannot be known."""
    paths = _paths(spec)
    if paths is None or len(paths) != len(names):
        return None
    return Tree(spec=spec, leaves=tuple(names))


def _paths(spec: str) -> list[Any] | None:
    try:
        tree: Any = pytree.treespec_loads(spec)
    except Exception:  # a container type of the module's own, whatever it makes torch raise
        return None
    return [path for path, _ in pytree.tree_flatten_with_path(pytree.tree_unflatten([0] * tree.num_leaves, tree))[0]]
