"""`aoti-serve package` and `aoti-serve inspect`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from aoti_serve.cli.console import AsJson, bytes_text, out, print_json, progress_out, reports_errors
from aoti_serve.errors import InvalidConfig
from aoti_serve.model.package import Package
from aoti_serve.signature.signature import Signature


@reports_errors
def package(
    target: Annotated[str, typer.Argument(metavar="MODULE:CALLABLE", help="Returns the model; see above.")],
    to: Annotated[Path, typer.Option("--out", help="The package to write; its weights are written beside it.")],
    batch_sizes: Annotated[
        str, typer.Option(metavar="N,N,...", help="Compile for these static batch sizes, over one copy of the weights.")
    ] = "",
    allow_baked: Annotated[
        bool, typer.Option("--allow-baked", help="Write it even if the compiler fixed some parameter's value.")
    ] = False,
    forget_mutations: Annotated[
        bool, typer.Option("--forget-mutations", help="Write it even if forward() changes a buffer; it will not.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compile a PyTorch model to a package with swappable weights.

    CALLABLE takes nothing and returns (module, example_inputs, dynamic_shapes): a torch.nn.Module in eval mode, its
    inputs as a tuple or a dict by name, and what torch.export.export takes as dynamic_shapes (None for none, and with
    --batch-sizes). Give every dynamic dimension an example of at least 2.
    """
    sizes = _sizes(batch_sizes)
    _make_folder(to)
    module, inputs, shapes = _make_model(target)
    from aoti_serve.model.export import export_package  # torch: only when it is needed

    with progress_out.status("exporting") as status:
        made = export_package(
            module,
            inputs,
            to,
            dynamic_shapes=shapes,
            batch_sizes=sizes,
            allow_baked=allow_baked,
            forget_mutations=forget_mutations,
            progress=lambda phase: status.update(f"{phase} {to.name}"),
        )
    _show(made, as_json)
    if not as_json:
        out.print(f"\nwritten: {to} and {to.with_suffix('.safetensors')}, its weights")
        out.print("name them in a configuration (`package`, `weights`), then serve it with `aoti-serve up`")


@reports_errors
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PACKAGE")],
    model_name: Annotated[str | None, typer.Option(help="Which model, if the archive holds several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a package was compiled for, its signature and its constants. Runs none of its compiled code."""
    _show(Package.open(path, model_name), as_json)


def _make_folder(to: Path) -> None:
    """Make the folder of the package now: compiling takes long, and would fail at its end."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfig(detail=f"--out {to}: cannot make the folder {to.parent}: {error.strerror}") from error


def _sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InvalidConfig(detail=f"--batch-sizes {text!r} is not a list of sizes such as 1,8,32")
    return [int(part) for part in parts]


def _make_model(target: str) -> tuple[Any, Any, Any]:
    name, separator, attribute = target.partition(":")
    if not separator:
        raise InvalidConfig(detail=f"'{target}' is not of the form my_module:make_model")
    sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(importlib.import_module(name), attribute)
        if not callable(make):
            raise InvalidConfig(detail=f"'{target}' is a {type(make).__name__}, not something to call")
        made = make()
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise InvalidConfig(detail=f"no module '{name}' in {Path.cwd()} or on the Python path") from error
    except AttributeError as error:
        if error.name != attribute:
            raise
        raise InvalidConfig(detail=f"module '{name}' has no '{attribute}'") from error
    if not isinstance(made, tuple) or len(made) != 3:
        detail = f"'{target}' must return (module, example_inputs, dynamic_shapes), not {type(made).__name__}"
        raise InvalidConfig(detail=detail)
    return made


def _show(package: Package, as_json: bool) -> None:
    compiled = {key: value for key, value in package.metadata.items() if key.startswith("AOTI_")}
    facts = {
        "path": str(package.path),
        "bytes": package.path.stat().st_size,
        "sha256": package.digest,
        "metadata": compiled,
        "carries_weights": package.carries_weights,
        "batch_sizes": [size for size, _ in package.variants if size],
    }
    signature = package.signature
    if as_json:
        print_json(facts | {"signature": signature.model_dump(mode="json")})
        return
    size = bytes_text(package.path.stat().st_size)
    out.print(Text.assemble((package.path.name, "bold"), f"  {size}  sha256 {package.digest}"))
    out.print("  ".join(f"{key.removeprefix('AOTI_').lower()}: {value or '-'}" for key, value in compiled.items()))
    weights = sum(spec.nbytes for spec in signature.constants)
    where = "inside, as version 0" if package.carries_weights else "apart"
    out.print(f"weights: {where}; {len(signature.constants)} constants, {bytes_text(weights)}")
    out.print(_tensors(signature.inputs, signature.outputs))
    out.print(_constants(signature))
    for line in _remarks(package):
        out.print(line)


def _constants(signature: Signature) -> Table:
    table = Table("constant", "dtype", "shape", "remark", title="constants", title_justify="left")
    names = {home: name for name, home in signature.tied.items()}
    for spec in signature.constants:
        remark = f"also called {names[spec.name]}" if spec.name in names else "weights may leave it out" * spec.carried
        table.add_row(spec.name, spec.dtype, str(list(spec.shape)), remark)
    for baked in signature.baked:
        table.add_row(baked.name, baked.dtype, str(list(baked.shape)), "compiled in: cannot be swapped")
    return table


def _remarks(package: Package) -> Iterator[str]:
    signature = package.signature
    if signature.unused:
        yield f"accepted in weights, not used by the code: {', '.join(signature.unused)}"
    if sizes := [str(size) for size, _ in package.variants if size]:
        yield f"compiled for batches of {', '.join(sizes)}; others are padded"
    for guard in signature.guards:
        yield f"checked at each run: indices from {', '.join(guard.inputs)} into {guard.table}"
    if not package.made_here:
        yield "not made by aoti-serve: constants that its compiler fixed may be missing above, and stay as they are"


def _tensors(inputs: Any, outputs: Any) -> Table:
    table = Table("kind", "name", "dtype", "shape", title="signature", title_justify="left")
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            table.add_row(kind, spec.name, spec.dtype, spec.describe_shape())
    return table
