"""From a PyTorch module to a package: export, compile with swappable constants, write the signature into it."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
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
from aoti_serve.model.program.padding import Rules
from aoti_serve.model.program.sizes import BATCH
from aoti_serve.model.program.torch_errors import torch_message
from aoti_serve.model.program.variant_plan import VariantPlan
from aoti_serve.signature.golden.file import golden_bytes, read_golden
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.padding import Lengths
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
    sizes: Mapping[str, Sequence[int]] | None = None,
    pad: Rules | None = None,
    inexact_padding: bool = False,
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
    `sizes` the dimensions that have these names in `dynamic_shapes` are compiled once for each combination of sizes,
    and a container picks; such variants share one copy of the weights. `batch_sizes` are sizes of the first dimension
    of every input. `pad` says by input with what it is filled up, a number or "mask", in all dimensions but the batch,
    so that rows of different lengths may share a run; `inexact_padding` lets that change answers
    (docs/guides/lengths.md).
    `allow_baked` writes a package even if the compiler fixed some parameter, `forget_mutations` even if forward()
    changes a buffer. With `prepare` staging puts weights in the order that is fastest where they run, if that pays
    (docs/concepts/preparation.md). The module is exported as it is: call `.eval()` first.

    With `quantize` the package computes linear layers in int8 where that pays. Its weights stay the module's own, and
    staging quantises them. `measured` is told how its answers to the example inputs differ from the module's, and a
    cosine of less than `min_cosine` is an error. On the CPU only.

    `golden` are requests, or a file of them, that the package carries: no weights answer that do not pass them, the
    module's own included (docs/guides/acceptance.md).

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
    sizes = {BATCH: batch_sizes} if batch_sizes else sizes or {}
    plan = VariantPlan(module, example_inputs, dynamic_shapes, sizes, pad or {}, inexact=inexact_padding)
    programs = {plan.name(lengths): one(*plan.at(lengths)) for lengths in plan.variants}
    plan.check(next(iter(programs.values())).signature)
    for request in () if sizes else requests:
        request.fitted(plan.served([programs[plan.name({})].signature]))  # compiling takes long
    compiled = {}
    for name, program in programs.items():
        progress(f"compiling for {name}" if sizes else "compiling")
        compiled[name] = _compiled(program)
    progress("writing")
    recipes = next(iter(compiled.values())).recipes
    signature = plan.served([each.signature for each in compiled.values()])
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

    _write(target, compiled, plan.sizes_by_name, signature, recipes, values, asked, check)
    return Package.open(target)


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
    compiled: Mapping[str, _Compiled],
    variants: Mapping[str, Lengths],
    signature: Signature,
    recipes: tuple[Recipe, ...],
    values: dict[str, torch.Tensor],
    golden: Collection[GoldenRequest],
    check: Callable[[Package], None],
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {SIGNATURE_KEY: signature.model_dump_json(), WEIGHTS_KEY: WEIGHTS_APART, TORCH_KEY: torch.__version__}
    if recipes:
        metadata[PREPARATION_KEY] = RECIPES.dump_json(recipes).decode()
    if golden:
        metadata[GOLDEN_KEY] = str(len(golden))
    if variants:
        metadata[VARIANTS_KEY] = json.dumps(variants)
    with TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        scratch, weights = Path(folder, target.name), Path(folder, "weights.safetensors")
        for each in compiled.values():
            _add_metadata(each.files, metadata)
        write_archive(scratch, {name: each.files for name, each in compiled.items()})
        for name, each in compiled.items():
            if problem := narrow(each.signature.inputs, GeneratedCode(scratch, name).inputs or ()):
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
