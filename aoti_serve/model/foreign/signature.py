"""Packages that export did not make: their signature, from whoever knows it.

The constants are in the generated code. Names, dtypes and ranges of inputs and outputs are in an exported program in
the same archive, or nowhere: then the configuration must declare them. Which parameters were compiled in, only the
exported program tells.
"""

from __future__ import annotations

from pathlib import Path

from aoti_serve.config import DeclaredSignature
from aoti_serve.errors import IncompatiblePackage, UnknownSignature, UnreadablePackage
from aoti_serve.model.archive import reading
from aoti_serve.model.foreign.declared import declared_signature, snippet
from aoti_serve.model.foreign.generated import GeneratedCode
from aoti_serve.model.program.narrowing import narrow
from aoti_serve.signature.signature import Signature


def signature_of(path: Path, model: str, declared: DeclaredSignature | None) -> Signature:
    """The signature from the exported program in the archive, else as declared; constants from the generated code.

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
        signature = declared_signature(path, declared, code)
    else:
        raise UnknownSignature(path=path, snippet=snippet(code))
    counts = (len(signature.inputs), len(signature.outputs))
    if counts != (compiled := (code.num_inputs, sum(code.outputs))):
        reason = "its signature has {} inputs and {} outputs, its code {} and {}".format(*counts, *compiled)
        raise IncompatiblePackage(path=path, reason=reason)
    if misfit := narrow(signature.inputs, code.inputs or (), ranges=declared is not None):
        raise IncompatiblePackage(path=path, reason=misfit)
    return signature


def carries_weights(path: Path, model: str) -> bool:
    """Whether the library holds weights."""
    return GeneratedCode(path, model).carries_weights


def _stored(path: Path, model: str, code: GeneratedCode) -> Signature:
    from aoti_serve.model.program.exported import stored_program, written_inputs
    from aoti_serve.model.program.reconcile import reconcile

    try:
        program = stored_program(path, model)
    except Exception as error:  # torch raises a dozen kinds
        said = str(error).partition("\n")[0]
        detail = f"its exported program cannot be read (are its operators' modules in `operators`?): {said}"
        raise UnreadablePackage(path=path, detail=detail) from error
    if written := written_inputs(program.exported).buffers:
        reason = f"its forward() changes the buffers {written}, and the code would write into the weights that answer"
        raise IncompatiblePackage(path=path, reason=reason)
    # The compiler renames what forward() makes to `_tensor_constant<n>`; nobody's weights hold it under either name.
    made = program.exported.graph_signature.lifted_tensor_constants
    known = [spec for spec in program.signature.constants if spec.name not in made]
    constants = code.constants([spec.name for spec in known if spec.carried])
    signature = program.signature.model_copy(update={"constants": tuple(known)})
    signature = reconcile(signature, program.values, {spec.name for spec in constants})
    return signature.model_copy(update={"constants": constants})
