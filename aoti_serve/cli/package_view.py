"""A package as `package` and `inspect` print it: tables for people, JSON for scripts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from aoti_serve.cli.answers import Uncut, name_table
from aoti_serve.cli.console import bytes_text, columns_of, cut_names, out, print_json
from aoti_serve.errors import quantity
from aoti_serve.model.package import Package
from aoti_serve.signature.signature import Signature

if TYPE_CHECKING:
    from aoti_serve.model.program.accuracy import Accuracy


def show_package(package: Package, as_json: bool, accuracy: Accuracy | None = None) -> None:
    """Print what a package says of itself, and how accurate it was found to be when it was made."""
    compiled = {key: value for key, value in package.metadata.items() if key.startswith("AOTI_")}
    facts = {
        "path": str(package.path),
        "bytes": package.path.stat().st_size,
        "sha256": package.digest,
        "metadata": compiled,
        "carries_weights": package.carries_weights,
        "golden_requests": package.golden_count,
        "sizes": [sizes for sizes, _ in package.variants if sizes],
    }
    signature = package.signature
    prepared = _prepared(package)
    if as_json:
        made = [{"constant": name, **asdict(each)} for name, each in prepared.items()]
        facts |= {"accuracy": accuracy._asdict()} if accuracy else {}
        print_json(facts | {"signature": signature.model_dump(mode="json"), "preparation": made})
        return
    size = bytes_text(package.path.stat().st_size)
    out.print(Text.assemble((package.path.name, "bold"), f"  {size}  sha256 {package.digest}"))
    out.print("  ".join(f"{key.removeprefix('AOTI_').lower()}: {value or '-'}" for key, value in compiled.items()))
    weights = sum(spec.nbytes for spec in signature.constants)
    where = "inside, as version 0" if package.carries_weights else "apart"
    out.print(f"weights: {where}; {quantity(len(signature.constants), 'constants')}, {bytes_text(weights)}")
    for table in (_tensors(signature.inputs, signature.outputs), _constants(signature, prepared)):
        out.print(Uncut(table))
    for line in _remarks(package, prepared.values()):
        out.print(cut_names(line, columns_of(out)))
    if accuracy:
        out.print(
            f"against the module, on its example inputs: largest error {accuracy.largest:.3g}, "
            f"mean {accuracy.mean:.3g}, cosine {accuracy.cosine:.6f}"
        )


@dataclass(frozen=True)
class _Prepared:
    """How a tensor of the weights is prepared, and the bytes that it takes here, before and after."""

    by: str
    plain_bytes: int
    prepared_bytes: int


def _prepared(package: Package) -> dict[str, _Prepared]:
    if not package.recipes:
        return {}
    from aoti_serve.model.preparation import preparations  # torch: only when it is needed

    plain = {spec.name: spec.nbytes for spec in package.constants}
    here = {each.source: each.nbytes for each in preparations.prepared(package.signature, package.recipes)}
    return {
        recipe.source: _Prepared(recipe.by, plain[recipe.source], here[recipe.source]) for recipe in package.recipes
    }


def _constants(signature: Signature, prepared: Mapping[str, _Prepared]) -> Table:
    rows = []
    names = {home: name for name, home in signature.tied.items()}
    for spec in signature.constants:
        remarks = [f"also called {names[spec.name]}"] if spec.name in names else []
        remarks += ["weights may leave it out"] * spec.carried
        remarks += [f"prepared: {prepared[spec.name].by}"] if spec.name in prepared else []
        rows.append((spec.name, spec.dtype, str(list(spec.shape)), "; ".join(remarks)))
    for baked in signature.baked:
        rows.append((baked.name, baked.dtype, str(list(baked.shape)), "compiled in: cannot be swapped"))
    return name_table("constants", ("constant", "dtype", "shape", "remark"), rows, 0, columns_of(out))


def _remarks(package: Package, made: Collection[_Prepared]) -> Iterator[str]:
    signature = package.signature
    if signature.unused:
        yield f"accepted in weights, not used by the code: {', '.join(signature.unused)}"
    if made:
        plain, here = sum(each.plain_bytes for each in made), sum(each.prepared_bytes for each in made)
        constants = quantity(len(made), "constants")
        yield f"prepared when staged: {constants}; {bytes_text(here)} here, {bytes_text(plain)} plain"
    if sizes := [sizes for sizes, _ in package.variants if sizes]:
        each = [f"{name} {', '.join(map(str, sorted({one[name] for one in sizes})))}" for name in sizes[0]]
        yield f"compiled for sizes of {'; '.join(each)}; others are padded"
    if signature.padding:
        masks, values = signature.padding.masks, signature.padding.values.items()
        rules = [f"{name} with {'0 (a mask, which may be left out)' if name in masks else at}" for name, at in values]
        yield f"padded in {', '.join(signature.lengths)}: {', '.join(rules)}"
    if package.golden_count:
        yield f"asked of all weights before they are committed: {quantity(package.golden_count, 'golden requests')}"
    for guard in signature.guards:
        yield f"checked at each run: indices from {', '.join(guard.inputs)} into {guard.table}"
    if not package.made_here:
        yield "not made by aoti-serve: constants that its compiler fixed may be missing above, and stay as they are"


def _tensors(inputs: Any, outputs: Any) -> Table:
    rows = [
        (kind, spec.name, spec.dtype, spec.describe_shape())
        for kind, specs in (("input", inputs), ("output", outputs))
        for spec in specs
    ]
    return name_table("signature", ("kind", "name", "dtype", "shape"), rows, 1, columns_of(out))
