"""Packages that export did not make: their signature, from the exported program or the configuration.

The constants are in the generated code. Names, dtypes and ranges of inputs and outputs are in an exported program in
the same archive, or nowhere: then the configuration must declare them. Which parameters were compiled in, only the
exported program tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from aoti_serve.config import DeclaredSignature
from aoti_serve.errors import IncompatiblePackage, UnknownSignature, UnreadablePackage, quantity
from aoti_serve.model.archive import reading
from aoti_serve.model.foreign.generated import GeneratedCode
from aoti_serve.model.program.compiled_signature import narrow
from aoti_serve.signature.call_spec import CALL, RESULT, CallSpec, KeyPath, key_name, key_paths, output_name
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import TensorSpec
from aoti_serve.signature.torch_private import pytree

_UNKNOWN = "?"
_MEAN = "running_mean"
_ABOUT = """\
# Fill in each '?', and check the ranges. A parameter that is not among the package's constants is refused in weights:
# it was compiled in, or is not used; nobody can tell which. List it under `unused:` to have it passed over.
"""


def signature_of(path: Path, model: str, declared: DeclaredSignature | None) -> Signature:
    """Read the signature from the exported program in the archive, else as declared; constants from the code.

    Raises UnknownSignature with the lines to add to the configuration if there is neither, and IncompatiblePackage if
    the code was compiled for another signature.
    """
    code = GeneratedCode(path, model)
    if code.folds_with_operators:
        # It lists those of the model itself only, and calls them by their place in the list: one would run for another.
        reason = "its constant folding calls operators that torch cannot find; compile it without runtime folding"
        raise IncompatiblePackage(path=path, reason=reason)
    if f"models/{model}.json" in reading.members(path, "models/"):
        signature = _stored(path, model, code)
    elif declared is not None:
        signature = _declared(path, declared, code)
    else:
        raise UnknownSignature(path=path, snippet=_snippet(code))
    counts = (len(signature.inputs), len(signature.outputs))
    if counts != (compiled := (code.num_inputs, sum(code.outputs))):
        declared_counts = " and ".join(map(quantity, counts, ("inputs", "outputs")))
        reason = "its signature has {}, its code {} and {}".format(declared_counts, *compiled)
        raise IncompatiblePackage(path=path, reason=reason)
    if misfit := narrow(signature.inputs, code.inputs or (), ranges=declared is not None):
        raise IncompatiblePackage(path=path, reason=misfit)
    return signature


def _stored(path: Path, model: str, code: GeneratedCode) -> Signature:
    from aoti_serve.model.program.compiled_signature import as_compiled
    from aoti_serve.model.program.exported import stored_program, written_inputs

    try:
        program = stored_program(path, model)
    except Exception as error:  # torch raises a dozen kinds
        said = str(error).partition("\n")[0]
        detail = f"its exported program cannot be read (are its operators' modules in `operators`?): {said}"
        raise UnreadablePackage(path=path, detail=detail) from error
    if written := written_inputs(program.exported).buffers:
        reason = f"its forward() changes the buffers {written}, and the code would write into the weights that answer"
        raise IncompatiblePackage(path=path, reason=reason)
    # The compiler renames tensors that forward() makes to `_tensor_constant<n>`; weights hold them under neither name.
    made = program.exported.graph_signature.lifted_tensor_constants
    known = [spec for spec in program.signature.constants if spec.name not in made]
    constants = code.constants([spec.name for spec in known if spec.carried])
    signature = program.signature.model_copy(update={"constants": tuple(known)})
    signature = as_compiled(signature, program.values, {spec.name for spec in constants})
    return signature.model_copy(update={"constants": constants})


def _declared(path: Path, declared: DeclaredSignature, code: GeneratedCode) -> Signature:
    """The declared inputs and outputs with the constants of the code.

    Raises IncompatiblePackage if it is to carry what it does not.
    """
    constants = code.constants(declared.carried)
    if lost := set(declared.carried or ()) - {spec.name for spec in constants if spec.carried}:
        raise IncompatiblePackage(path=path, reason=f"it carries no {sorted(lost)}, which the configuration says")
    names = iter([spec.name for spec in declared.outputs])
    leaves = [next(names, None) if is_tensor else None for is_tensor in code.outputs]
    forms = code.inputs or [None] * len(declared.inputs)
    return Signature(
        inputs=tuple(
            spec.model_copy(update={"order": form and form.order})
            for spec, form in zip(declared.inputs, forms, strict=False)
        ),
        outputs=declared.outputs,
        takes=_nested(code.call_spec("in"), [spec.name for spec in declared.inputs], CALL),
        gives=_nested(code.call_spec("out"), leaves, RESULT)
        or CallSpec.of(pytree.tree_structure([0] * len(leaves)), leaves, RESULT),
        constants=constants,
        unused=tuple(dict.fromkeys([*declared.unused, *_counters(constants)])),
        baked_known=False,
    )


def _counters(constants: Sequence[ConstantSpec]) -> list[str]:
    """What batch norms count in training and no compiled code reads; a `state_dict()` holds it."""
    means = (spec.name for spec in constants if spec.name.endswith(_MEAN))
    return [name.removesuffix(_MEAN) + "num_batches_tracked" for name in means]


def _snippet(code: GeneratedCode) -> str:
    """Write the lines to add under the model's entry, with '?' for the facts that only its maker knows."""
    forms = code.inputs or [None] * code.num_inputs
    names = [_input_name(index, path) for index, path in enumerate(_paths(code.call_spec("in"), len(forms)))]
    inputs = [_entry(name, form) for name, form in zip(names, forms, strict=True)]
    paths = enumerate(_paths(code.call_spec("out"), code.num_outputs))
    names = [output_name(path, f"output_{index}") for index, path in paths]
    outputs = [_entry(name, None) for name, is_tensor in zip(names, code.outputs, strict=True) if is_tensor]
    content = {"signature": {"inputs": inputs, "outputs": outputs}}
    return _ABOUT + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)


def _entry(name: str, form: TensorSpec | None) -> dict[str, Any]:
    if form is None:
        return {"name": name, "dtype": _UNKNOWN, "shape": [_UNKNOWN]}
    sizes = [dim if isinstance(dim, int) else str(dim) for dim in form.shape]
    return {"name": name, "dtype": form.dtype, "shape": sizes}


def _paths(spec: str, count: int) -> list[KeyPath]:
    """The key path of each of `count` leaves; empty ones if the nesting has other leaves, or is not known here."""
    tree = _tree_spec(spec)
    return key_paths(tree) if tree and tree.num_leaves == count else [()] * count


def _input_name(index: int, path: KeyPath) -> str:
    """The name that a keyword argument and dicts give, else `input_<n>`."""
    if not path:
        return f"input_{index}"
    keyword, (first, *rest) = path[0].idx == 1, map(key_name, path[1:])
    return ".".join([first if keyword else f"input_{first}", *rest])


def _nested(text: str, leaves: Sequence[str | None], roots: Sequence[str]) -> CallSpec | None:
    """The nesting with these names; None if it has other leaves (some are no tensors), or is not known here."""
    spec = _tree_spec(text)
    return CallSpec.of(spec, leaves, roots) if spec and spec.num_leaves == len(leaves) else None


def _tree_spec(text: str) -> Any:
    try:
        return pytree.treespec_loads(text)
    except Exception:  # a container type of the module's own, whatever it makes torch raise
        return None
