"""`aoti-serve package` and `aoti-serve inspect`."""

from __future__ import annotations

import logging
import shlex
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aoti_serve.cli.console import AsJson, out, phases, program_called, progress_out, reports_errors
from aoti_serve.cli.package_view import show_package
from aoti_serve.cli.setup.maker import model_made_by
from aoti_serve.errors import InvalidConfig, PackageError
from aoti_serve.model.package import Package
from aoti_serve.signature.golden.file import read_golden

if TYPE_CHECKING:
    from aoti_serve.model.program.accuracy import Accuracy


@reports_errors
def package(
    target: Annotated[str, typer.Argument(metavar="MODULE:CALLABLE", help="Returns the model; see above.")],
    to: Annotated[Path, typer.Option("--out", help="The package to write; its weights are written beside it.")],
    batch_sizes: Annotated[
        str, typer.Option(metavar="N,N,...", help="Compile for these static batch sizes, over one copy of the weights.")
    ] = "",
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N,N,...", help="Compile for these sizes of a named dimension: batch=1,8 length=32,128."
        ),
    ] = None,
    more_sizes: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    pad: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUT=VALUE", help="What fills an input up to a longer size: a number, or mask."),
    ] = None,
    inexact_padding: Annotated[
        bool, typer.Option("--inexact-padding", help="Write it even if padding changes answers.")
    ] = False,
    allow_baked: Annotated[
        bool, typer.Option("--allow-baked", help="Write it even if the compiler fixed some parameter's value.")
    ] = False,
    forget_mutations: Annotated[
        bool, typer.Option("--forget-mutations", help="Write it even if forward() changes a buffer; it will not.")
    ] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare/--no-prepare", help="Let staging pack weights for the processor where that pays.")
    ] = True,
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="int8", help="Compute linear layers in it where that pays; weights come plain. On the CPU only."
        ),
    ] = None,
    min_cosine: Annotated[
        float,
        typer.Option(help="The least cosine of a quantized package's answers to the module's own.", min=-1, max=1),
    ] = 0.99,
    golden: Annotated[
        Path | None,
        typer.Option(
            help="A file of golden requests, which all weights must answer rightly; save_golden writes it in Python."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show torch's own warnings, and where in torch an error comes from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compile a PyTorch model to a package with swappable weights.

    CALLABLE takes nothing and returns (module, example_inputs, dynamic_shapes): a torch.nn.Module in eval mode, its
    inputs as a tuple or a dict by name, and what torch.export.export takes as dynamic_shapes (None for none, and with
    --batch-sizes). Names of --sizes are those that dimensions have in dynamic_shapes: with {"x": {0: Dim("batch"), 1:
    Dim("length")}} it is --sizes batch=1,8 length=32,128.
    """
    rows = _numbers("--batch-sizes", batch_sizes)
    static, rules = _sizes([*(sizes or ()), *(more_sizes or ())]), _rules(pad or ())
    if rows and static:
        raise InvalidConfig(detail=f"--batch-sizes {batch_sizes} and --sizes: write --sizes batch={batch_sizes}")
    if golden:
        read_golden(golden)  # before the model is made, which may take long
    _make_folder(to)
    accuracies: list[Accuracy] = []
    with phases(verbose) as phase:
        phase(f"making the model of {target}")
        with warnings.catch_warnings():
            if not verbose:
                warnings.filterwarnings("ignore", module=r"torch(\.|$)")
            module, inputs, shapes = model_made_by(target, verbose)
        from aoti_serve.model.export import export_package  # torch: only when it is needed

        with torchs_voice(verbose):
            made = export_package(
                module,
                inputs,
                to,
                dynamic_shapes=shapes,
                batch_sizes=rows,
                sizes=static,
                pad=rules,
                inexact_padding=inexact_padding,
                allow_baked=allow_baked,
                forget_mutations=forget_mutations,
                prepare=prepare,
                quantize=quantize,
                min_cosine=min_cosine,
                golden=golden or (),
                measured=accuracies.append,
                noted=lambda note: progress_out.print(f"note: {note}"),
                progress=lambda what: phase(f"{what} {to.name}"),
            )
    show_package(made, as_json, *accuracies)
    if not as_json:
        out.print(f"\nwritten: {to} and {to.with_suffix('.safetensors')}, its weights")
        out.print(f"next, for a configuration: {program_called()} init --package {shlex.quote(str(to))}")


@reports_errors
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PACKAGE")],
    model_name: Annotated[str | None, typer.Option(help="Which model, if the archive holds several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a package was compiled for, its signature and its constants. Runs none of its compiled code."""
    with phases() as phase:
        phase(f"reading {path}")
        found = Package.open(path, model_name)
        found.check_whole()
    show_package(found, as_json)


@contextmanager
def torchs_voice(audible: bool) -> Iterator[None]:
    """Let torch warn, and show the traceback of what it raises; or neither: its warnings are of its own code."""
    if audible:
        try:
            yield
        except PackageError as error:
            if error.__cause__:
                progress_out.print("".join(traceback.format_exception(error.__cause__)))
            raise
        return
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # of an error it logs the whole graph, and raises it as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _make_folder(to: Path) -> None:
    """Make the folder of the package now: compiling takes long, and would fail at its end."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfig(detail=f"--out {to}: cannot make the folder {to.parent}: {error.strerror}") from error


def _sizes(texts: Sequence[str]) -> dict[str, list[int]]:
    parts = [part for text in texts for part in text.split()]
    return {name: _numbers(f"--sizes {name}=", sizes) for name, sizes in _pairs("--sizes", "length=32,128", parts)}


def _rules(texts: Sequence[str]) -> dict[str, float | str]:
    return {name: _rule(name, value) for name, value in _pairs("--pad", "input_ids=0", texts)}


def _rule(name: str, value: str) -> float | str:
    if value == "mask":
        return value
    try:
        return int(value) if value.lstrip("-").isdecimal() else float(value)
    except ValueError as error:
        raise InvalidConfig(detail=f"--pad {name}={value} is neither a number nor mask") from error


def _pairs(option: str, example: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [tuple(text.split("=", 1)) for text in texts]
    for text, pair in zip(texts, pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise InvalidConfig(detail=f"{option} {text!r} is not of the form {option} {example}")
    names = [name for name, *_ in pairs]
    if len(set(names)) < len(names):
        raise InvalidConfig(detail=f"{option} names '{max(names, key=names.count)}' twice")
    return [(name, value) for name, value in pairs]


def _numbers(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InvalidConfig(detail=f"{option} {text!r} is not a list of sizes such as 1,8,32")
    return [int(part) for part in parts]
