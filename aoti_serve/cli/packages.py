"""`aoti-serve package` and `aoti-serve inspect`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from aoti_serve.cli.console import AsJson, bytes_text, out, print_json, progress_out, reports_errors
from aoti_serve.errors import InvalidConfig
from aoti_serve.model.package import Package


@reports_errors
def package(
    target: Annotated[str, typer.Argument(metavar="MODULE:CALLABLE", help="Returns the model; see above.")],
    to: Annotated[Path, typer.Option("--out", help="The package to write; its weights are written beside it.")],
    as_json: AsJson = False,
) -> None:
    """Compile a PyTorch model to a package with swappable weights.

    CALLABLE takes nothing and returns (module, example_inputs, dynamic_shapes): a torch.nn.Module in eval mode, its
    inputs as a tuple or a dict by name, and what torch.export.export takes as dynamic_shapes (None for none). Give
    every dynamic dimension an example of at least 2.
    """
    module, inputs, shapes = _made(target)
    from aoti_serve.model.export import export_package  # torch: only when it is needed

    with progress_out.status("exporting") as status:
        made = export_package(
            module, inputs, to, dynamic_shapes=shapes, progress=lambda phase: status.update(f"{phase} {to.name}")
        )
    _show(made, as_json)


@reports_errors
def inspect(path: Annotated[Path, typer.Argument(metavar="PACKAGE")], as_json: AsJson = False) -> None:
    """Show what a package was compiled for, its signature and its constants. Runs none of its code."""
    _show(Package.open(path), as_json)


def _made(target: str) -> tuple[Any, Any, Any]:
    name, separator, attribute = target.partition(":")
    if not separator:
        raise InvalidConfig(detail=f"'{target}' is not of the form my_module:make_model")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(name), attribute)()
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
    out.print(f"weights: {where}; {len(signature.constants)} constants, {bytes_text(weights)}, all swappable")
    out.print(_tensors(signature.inputs, signature.outputs))
    table = Table("constant", "dtype", "shape", title="constants (all can be swapped)", title_justify="left")
    for spec in signature.constants:
        table.add_row(spec.name, spec.dtype, str(list(spec.shape)))
    out.print(table)
    if signature.unused:
        out.print(f"accepted in weights, not used by the code: {', '.join(signature.unused)}")


def _tensors(inputs: Any, outputs: Any) -> Table:
    table = Table("", "name", "dtype", "shape", title="signature", title_justify="left")
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            table.add_row(kind, spec.name, spec.dtype, spec.describe_shape())
    return table
