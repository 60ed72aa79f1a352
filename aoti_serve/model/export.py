"""From a PyTorch module to a package: export, compile with swappable constants, write the signature into it."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from aoti_serve.errors import BakedConstants, CannotQuantize, UnsupportedModule
from aoti_serve.model.archive.preflight import TORCH_KEY
from aoti_serve.model.container import Container
from aoti_serve.model.foreign.generated import GeneratedCode
from aoti_serve.model.loading import swappable
from aoti_serve.model.package import (
    BASELINE,
    GOLDEN,
    GOLDEN_KEY,
    PREPARATION_KEY,
    SIGNATURE_KEY,
    VARIANTS_KEY,
    WEIGHTS_APART,
    WEIGHTS_KEY,
    Package,
)
from aoti_serve.model.preparation.recipe import RECIPES, Recipe
from aoti_serve.model.program.accuracy import Accuracy, accuracy_of
from aoti_serve.model.program.compiled_signature import as_compiled, narrow, passing_over
from aoti_serve.model.program.exported import ExampleInputs, Program, program_of
from aoti_serve.model.program.sizes import check_rows_are_independent, resized_inputs, served_signature
from aoti_serve.model.program.torch_errors import torch_message
from aoti_serve.signature.golden.file import golden_bytes, read_golden
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.torch_private import compile_files, write_archive

INT8 = "int8"
_log = logging.getLogger(__name__)


class _Compiled(NamedTuple):
    """One compiled library among its files, and what the code keeps after all."""

    files: list[str]
    signature: Signature
    recipes: tuple[Recipe, ...]


def export_package(
    module: torch.nn.Module,
    example_inputs: ExampleInputs,
    path: str | os.PathLike[str],
    *,
    dynamic_shapes: Any = None,
    batch_sizes: Sequence[int] = (),
    allow_baked: bool = False,
    forget_mutations: bool = False,
    prepare: bool = True,
    quantize: str | None = None,
    min_cosine: float = 0.99,
    golden: str | os.PathLike[str] | Collection[GoldenRequest] = (),
    measured: Callable[[Accuracy], object] = lambda accuracy: None,
    noted: Callable[[str], object] = _log.warning,
    progress: Callable[[str], None] = lambda phase: None,
) -> Package:
    """Compile `module` to a package at `path`, code only, and its weights beside it (`<stem>.safetensors`).

    `example_inputs` are positional (a tuple) or by name (a mapping); `dynamic_shapes` as in `torch.export.export`.
    Where that leaves a dimension to torch (`Dim.AUTO`) and torch narrows it, `noted` is told so in a sentence. With
    `batch_sizes` the first dimension of every input is compiled once for each of them, and a container picks; such
    variants share one copy of the weights. `allow_baked` writes a package even if the compiler fixed some parameter,
    `forget_mutations` even if forward() changes a buffer. With `prepare` staging puts weights in the order
    that is fastest where they run, if that pays (docs/preparation.md). The module is exported as it is: call `.eval()`
    first.

    With `quantize` the package computes linear layers in int8 where that pays. Its weights stay the module's own, and
    staging quantises them. `measured` is told how its answers to the example inputs differ from the module's, and a
    cosine of less than `min_cosine` is an error. On the CPU only.

    `golden` are requests, or a file of them, that the package carries: no weights answer that do not pass them, the
    module's own included (docs/acceptance.md).

    Takes tens of seconds, needs a C++ compiler, and leaves `path` untouched when it fails. Raises UnsupportedModule,
    BakedConstants, ExportFailed, CannotQuantize, TooInaccurate, UnfitGolden or GoldenFailed.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise UnsupportedModule(detail=f"a package is called <name>.pt2, not {target.name}")
    if quantize not in (None, INT8):
        raise CannotQuantize(detail=f"'{quantize}' is not known, only '{INT8}' is")
    requests = golden if isinstance(golden, Collection) and not isinstance(golden, str) else read_golden(golden)
    progress("exporting")
    one = partial(
        program_of,
        module,
        forget_mutations=forget_mutations,
        prepare=prepare,
        quantize=quantize is not None,
        noted=noted,
    )
    programs = _programs(one, module, example_inputs, dynamic_shapes, batch_sizes)
    for request in () if batch_sizes else requests:
        request.fitted(programs[0].signature)  # compiling takes long
    compiled = {}
    for size, program in programs.items():
        progress(f"compiling for batches of {size}" if size else "compiling")
        compiled[size] = _compiled(program)
    progress("writing")
    signatures = {size: model.signature for size, model in compiled.items()}
    recipes = next(iter(compiled.values())).recipes
    signature = served_signature(signatures) if batch_sizes else signatures[0]
    asked = [request.fitted(signature) for request in requests]
    lost = [spec.name for spec in signature.baked if spec.name in module.state_dict()]
    if lost and not allow_baked:
        raise BakedConstants(names=lost)
    values = next(iter(programs.values())).values

    def check(package: Package) -> None:
        if quantize is not None:
            progress("measuring the accuracy of")
            accuracy = accuracy_of(module, package, values, [program.examples for program in programs.values()])
            measured(accuracy)
            accuracy.check(quantize, min_cosine)
        if requests:
            progress("asking golden requests of")
            _try(package, values)

    files = {size: model.files for size, model in compiled.items()}
    _write(target, files, signature, recipes, values, asked, check)
    return Package.open(target)


def _programs(
    one: Callable[[ExampleInputs, Any], Program],
    module: torch.nn.Module,
    inputs: ExampleInputs,
    dynamic_shapes: Any,
    batch_sizes: Sequence[int],
) -> dict[int, Program]:
    """Export a program for each batch size; 0 stands for the only one, of the sizes in `dynamic_shapes`."""
    if not batch_sizes:
        return {0: one(inputs, dynamic_shapes)}
    if min(batch_sizes) < 1:
        raise UnsupportedModule(detail=f"batch sizes are 1 or more, not {min(batch_sizes)}")
    if dynamic_shapes is not None:
        raise UnsupportedModule(
            detail="with --batch-sizes (batch_sizes) dynamic_shapes must be None: each size is compiled as static"
        )
    check_rows_are_independent(module, resized_inputs(inputs, max(batch_sizes)))
    return {size: one(resized_inputs(inputs, size), None) for size in sorted(set(batch_sizes))}


def _compiled(program: Program) -> _Compiled:
    module = program.exported.module(check_guards=False)
    files = torch_message("compile", lambda: compile_files(module, program.examples, _OPTIONS))
    library = next(Path(file) for file in files if file.endswith("wrapper.so"))
    signature = as_compiled(program.signature, program.values, program.with_sources(swappable(library, program.device)))
    signature = passing_over(signature, program.unread()) if signature.baked else signature
    names = {spec.name for spec in signature.constants}  # of several names of a tensor the compiler keeps one
    return _Compiled(files, signature, tuple(recipe for recipe in program.recipes if recipe.source in names))


_OPTIONS = {
    "aot_inductor.package": True,
    # Else 1-D constants of up to 8 elements are inlined and could never be swapped (graph.py can_inline_constant).
    "always_keep_tensor_constants": True,
    "aot_inductor.package_constants_in_so": False,
    # Else what is made of a constant whose elements are equal when it is compiled is fixed: `1 + weight` of zeros.
    "joint_graph_constant_folding": False,
    # Else the compiling machine's thread count is fixed in the code.
    "cpp.dynamic_threads": True,
    # Else the code may use any instruction of the compiling CPU, and the metadata names only some.
    "cpp.march": "",
}


def _try(package: Package, values: dict[str, torch.Tensor]) -> None:
    with Container(package) as container:
        container.stage({spec.name: values[spec.name] for spec in package.constants})
        container.try_staged()


def _write(
    target: Path,
    files: dict[int, list[str]],
    signature: Signature,
    recipes: tuple[Recipe, ...],
    values: dict[str, torch.Tensor],
    golden: Collection[GoldenRequest],
    check: Callable[[Package], None],
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    models = {f"batch{size}" if size else "model": size for size in files}
    metadata = {SIGNATURE_KEY: signature.model_dump_json(), WEIGHTS_KEY: WEIGHTS_APART, TORCH_KEY: torch.__version__}
    if recipes:
        metadata[PREPARATION_KEY] = RECIPES.dump_json(recipes).decode()
    if golden:
        metadata[GOLDEN_KEY] = str(len(golden))
    if 0 not in files:
        metadata[VARIANTS_KEY] = json.dumps(models)
    with TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        scratch, weights = Path(folder, target.name), Path(folder, "weights.safetensors")
        for compiled in files.values():
            _add_metadata(compiled, metadata)
        write_archive(scratch, {model: files[size] for model, size in models.items()})
        if 0 in files and (problem := narrow(signature.inputs, GeneratedCode(scratch, "model").inputs or ())):
            raise UnsupportedModule(detail=f"the compiler fixed what should vary: {problem}")
        _save({spec.name: values[spec.name] for spec in signature.constants if spec.carried}, weights)
        with zipfile.ZipFile(scratch, "a") as archive:
            archive.write(weights, f"{target.stem}/{BASELINE}")
            if golden:
                archive.writestr(f"{target.stem}/{GOLDEN}", golden_bytes(golden))
        check(Package.open(scratch))
        _save({spec.name: values[spec.name] for spec in signature.constants}, weights)
        weights.replace(target.with_suffix(".safetensors"))
        scratch.replace(target)


def _add_metadata(files: list[str], metadata: dict[str, str]) -> None:
    path = next(Path(file) for file in files if file.endswith("wrapper_metadata.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | metadata))


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    # Tied tensors share a storage, and safetensors refuses to write that.
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(0o644)  # it comes as 0600, and the server may run as another user
