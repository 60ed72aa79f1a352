"""`aoti-serve package` and `aoti-serve inspect`."""

from __future__ import annotations

import importlib
import logging
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aoti_serve.cli.console import AsJson, out, progress_out, reports_errors
from aoti_serve.cli.package_view import show_package
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
            help="A file of golden requests, which all weights must answer rightly; see docs/guides/acceptance.md."
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
    --batch-sizes). Names of --sizes are those that dimensions have in dynamic_shapes;
    docs/guides/lengths.md has examples.
    """
    rows = _numbers("--batch-sizes", batch_sizes)
    static, rules = _sizes([*(sizes or ()), *(more_sizes or ())]), _rules(pad or ())
    if rows and static:
        raise InvalidConfig(detail=f"--batch-sizes {batch_sizes} and --sizes: write --sizes batch={batch_sizes}")
    if golden:
        read_golden(golden)  # before the model is made, which may take long
    _make_folder(to)
    with warnings.catch_warnings():
        if not verbose:
            warnings.filterwarnings("ignore", module=r"torch(\.|$)")
        module, inputs, shapes = _make_model(target, verbose)
    from aoti_serve.model.export import export_package  # torch: only when it is needed

    accuracies: list[Accuracy] = []
    with progress_out.status("exporting") as status, torchs_voice(verbose):
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
            progress=lambda phase: status.update(f"{phase} {to.name}"),
        )
    show_package(made, as_json, *accuracies)
    if not as_json:
        out.print(f"\nwritten: {to} and {to.with_suffix('.safetensors')}, its weights")
        out.print(f"next: `aoti-serve init --package {to}` writes a configuration with them, `aoti-serve up` serves it")


@reports_errors
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PACKAGE")],
    model_name: Annotated[str | None, typer.Option(help="Which model, if the archive holds several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a package was compiled for, its signature and its constants. Runs none of its compiled code."""
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


def _make_model(target: str, verbose: bool) -> tuple[Any, Any, Any]:
    name, separator, attribute = target.partition(":")
    if not separator:
        raise InvalidConfig(detail=f"'{target}' is not of the form my_module:make_model")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = _callable(name, attribute)()
    except InvalidConfig:
        raise
    except Exception as error:  # whatever the user's own code raises
        progress_out.print("".join(_told(error, verbose)), end="")
        more = "" if verbose else "; -v shows where in the libraries that it calls"
        raise InvalidConfig(detail=f"'{target}' raised {type(error).__name__}: {error}{more}") from error
    if not isinstance(made, tuple) or len(made) != 3:
        detail = f"'{target}' must return (module, example_inputs, dynamic_shapes), not {type(made).__name__}"
        raise InvalidConfig(detail=detail)
    return made


def _callable(name: str, attribute: str) -> Callable[[], Any]:
    """What the module calls so. Raises InvalidConfig, and what the module itself raises."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise InvalidConfig(detail=f"no module '{name}' in {Path.cwd()} or on the Python path") from error
    found: object = getattr(module, attribute, None)
    if found is None:
        raise InvalidConfig(detail=f"module '{name}' has no '{attribute}'")
    if not callable(found):
        raise InvalidConfig(detail=f"'{name}:{attribute}' is a {type(found).__name__}, not something to call")
    return found


def _told(error: Exception, verbose: bool) -> list[str]:
    """The traceback; without `verbose` its lines of the user's own files."""
    if verbose:
        return traceback.format_exception(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return traceback.format_list(frames)


def _is_users(file: str) -> bool:
    path = Path(file)
    ours = path.is_relative_to(Path(__file__).parents[1])
    installed = any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))
    return path.is_file() and not ours and not installed
