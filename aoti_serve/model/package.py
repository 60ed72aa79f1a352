"""A `.pt2` file: what it says of itself, read without running any of its code."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PositiveInt, TypeAdapter, ValidationError

from aoti_serve.config import DeclaredSignature, ModelConfig
from aoti_serve.errors import IncompatiblePackage, UnreadablePackage, problems
from aoti_serve.model.archive import reading, unpack
from aoti_serve.model.preparation import recipe
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.golden.file import read_golden
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.padding import Lengths
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import CPU

if TYPE_CHECKING:
    import torch

SIGNATURE_KEY = "aoti_serve.signature"
WEIGHTS_KEY = "aoti_serve.weights"
VARIANTS_KEY = "aoti_serve.variants"
PREPARATION_KEY = "aoti_serve.preparation"
WEIGHTS_APART = "apart"
GOLDEN_KEY = "aoti_serve.golden"
BASELINE = "extra/aoti_serve/baseline.safetensors"
GOLDEN = "extra/aoti_serve/golden.safetensors"

_METADATA_FORM = TypeAdapter(dict[str, str])
_VARIANTS_FORM = TypeAdapter(dict[str, dict[str, PositiveInt] | PositiveInt])  # a number is a size of the batch


class Package:
    """A package on disk. Opening it runs no native code.

    `metadata` is the compiler's (AOTI_DEVICE_KEY, AOTI_MACHINE, ...) and ours; `model_name` one of the models in the
    archive; `operators` the Python modules that define its custom operators, imported when it is loaded; `pinned`
    whether the configuration demands its sha256. `signature` is the one that export wrote; for packages made elsewhere
    see `foreign`.
    """

    def __init__(
        self,
        path: Path,
        model_name: str,
        metadata: dict[str, str],
        declared: DeclaredSignature | None = None,
        operators: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.model_name = model_name
        self.metadata = metadata
        self.operators = tuple(operators)
        self.pinned = False
        self._declared = declared

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        model_name: str | None = None,
        *,
        signature: DeclaredSignature | None = None,
        operators: Sequence[str] = (),
    ) -> Package:
        """Read the package's metadata; raises UnreadablePackage if `path` is not an AOTInductor package.

        `model_name` may be left out if the archive holds one model, or variants of one, or one called "model"; the name
        of a variant stands for all of them.
        """
        source = Path(path).resolve()
        names = reading.names_in_archive(source)
        name = _chosen(source, names, model_name)
        try:
            metadata = _METADATA_FORM.validate_json(reading.metadata(source, name))
        except ValidationError as error:
            raise UnreadablePackage(path=source, detail=f"its metadata: {problems(error.errors())}") from error
        package = cls(source, name, metadata, signature, operators)
        package._check_variants(names, chosen=model_name is not None or name == "model")
        return package

    @cached_property
    def signature(self) -> Signature:
        """Raises UnknownSignature, with the lines to add to the configuration, if nothing tells it."""
        if not self.made_here:
            from aoti_serve.model.foreign.signature import signature_of

            self.import_operators()  # an exported program cannot be read without
            return signature_of(self.path, self.model_name, self._declared)
        try:
            return Signature.model_validate_json(self.metadata[SIGNATURE_KEY])
        except ValidationError as error:
            raise UnreadablePackage(path=self.path, detail=f"signature: {problems(error.errors())}") from error

    @cached_property
    def recipes(self) -> tuple[recipe.Recipe, ...]:
        """How weights are prepared. Raises IncompatiblePackage for a preparation that this version does not have."""
        try:
            recipes = recipe.RECIPES.validate_json(self.metadata.get(PREPARATION_KEY, "[]"))
        except ValidationError as error:
            raise UnreadablePackage(path=self.path, detail=f"preparation: {problems(error.errors())}") from error
        for problem in recipe.recipe_problems(recipes, self.signature):
            raise IncompatiblePackage(path=self.path, reason=problem)
        return recipes

    def check_whole(self) -> None:
        """Compare all that is in the file with its checksums. Raises UnreadablePackage if a byte has changed."""
        reading.check_whole(self.path)

    def import_operators(self) -> None:
        """Import the modules that define its custom operators; raises IncompatiblePackage for one that cannot be."""
        for module in self.operators:
            try:
                importlib.import_module(module)
            except Exception as error:  # whatever a module raises when it is imported
                reason = f"its operators' module '{module}' cannot be imported: {error}"
                raise IncompatiblePackage(path=self.path, reason=reason) from error

    @property
    def constants(self) -> tuple[ConstantSpec, ...]:
        return self.signature.constants

    @property
    def device(self) -> str:
        """The kind of device that it was compiled for: `cpu` or `cuda`."""
        return self.metadata.get("AOTI_DEVICE_KEY", CPU)

    @property
    def made_here(self) -> bool:
        """True if our export wrote it: only then is it known what the compiler fixed."""
        return SIGNATURE_KEY in self.metadata

    @property
    def variants(self) -> list[tuple[Lengths, str]]:
        """The models that are served as one: the static sizes of each by dimension, and its name in the archive."""
        return [(sizes, name) for name, sizes in self._sizes.items()] or [({}, self.model_name)]

    @cached_property
    def carries_weights(self) -> bool:
        """True if the library holds built-in weights (version 0), False if code only."""
        if self.made_here:
            return self.metadata.get(WEIGHTS_KEY) != WEIGHTS_APART
        from aoti_serve.model.foreign.generated import GeneratedCode

        return GeneratedCode(self.path, self.model_name).carries_weights

    @cached_property
    def digest(self) -> str:
        """sha256 of the file, in hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def baseline(self) -> dict[str, torch.Tensor]:
        """Values for the constants that weights may leave out, as export wrote them.

        From the unpacked archive, as the code: the file may have been replaced by another since.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._unpacked() / BASELINE
        try:
            found = load_file(path) if path.exists() else {}
        except SafetensorError as error:
            raise UnreadablePackage(path=self.path, detail=f"its baseline: {error}") from error
        for spec in self.constants:
            value = found.get(spec.name)
            named = value is not None and (str(value.dtype).removeprefix("torch."), tuple(value.shape))
            if spec.carried and not self.carries_weights and named != (spec.dtype, spec.shape):
                raise UnreadablePackage(
                    path=self.path, detail=f"its baseline has no '{spec.name}' as the code takes it"
                )
        return found

    @property
    def golden_count(self) -> int:
        """The number of golden requests that it carries."""
        count = self.metadata.get(GOLDEN_KEY, "0")
        if not count.isdecimal():
            raise UnreadablePackage(path=self.path, detail=f"golden requests: {count!r} is no number of them")
        return int(count)

    def golden(self) -> list[GoldenRequest]:
        """The golden requests that all weights must answer rightly. From the unpacked archive, as the baseline."""
        return read_golden(self._unpacked() / GOLDEN) if self.golden_count else []

    def check_unchanged(self) -> None:
        """Refuse if the file was replaced since it was opened: its code and what was read of it would not agree."""
        written = next(self.extract().glob("*wrapper_metadata.json"))
        if _METADATA_FORM.validate_json(written.read_bytes()) != self.metadata:
            raise IncompatiblePackage(path=self.path, reason="the file was replaced since it was opened; open it again")

    def extract(self, model_name: str | None = None) -> Path:
        """The folder with the library of one of its models, unpacked once per node."""
        return self._unpacked() / reading.MODELS / (model_name or self.model_name)

    def _unpacked(self) -> Path:
        return unpack.extract(self.path, self.digest, verify=self.pinned)

    def _check_variants(self, names: Sequence[str], chosen: bool) -> None:
        missing = [name for name in self._sizes if name not in names]
        if missing:
            raise UnreadablePackage(path=self.path, detail=f"variants {self._sizes}: it holds {', '.join(names)}")
        if not chosen and set(names) != set(self._sizes or [self.model_name]):
            detail = f"it holds several models, {', '.join(names)}; say which with `model_name`"
            raise UnreadablePackage(path=self.path, detail=detail)

    @cached_property
    def _sizes(self) -> dict[str, Lengths]:
        try:
            found = _VARIANTS_FORM.validate_json(self.metadata.get(VARIANTS_KEY, "{}"))
        except ValidationError as error:
            raise UnreadablePackage(path=self.path, detail=f"variants: {problems(error.errors())}") from error
        return {name: {"batch": sizes} if isinstance(sizes, int) else sizes for name, sizes in found.items()}


def configured_package(config: ModelConfig) -> Package:
    """The package that a configuration names; raises a PackageError if the two do not go together."""
    package = Package.open(config.package, config.model_name, signature=config.signature, operators=config.operators)
    # Known from here on, also where replicas load it: the file may be replaced in the meantime.
    package.digest  # noqa: B018
    package.pinned = config.sha256 is not None
    if config.sha256 and config.sha256.lower() != package.digest:
        raise IncompatiblePackage(path=package.path, reason=f"its sha256 is {package.digest}, not {config.sha256}")
    package.recipes  # noqa: B018 - refused here, where the user reads it, like a package without a signature
    if config.device not in ("auto", package.device):
        reason = f"compiled for {package.device}, the configuration says device: {config.device}"
        raise IncompatiblePackage(path=package.path, reason=reason)
    return package


def _chosen(path: Path, names: Sequence[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in names:
        raise UnreadablePackage(path=path, detail=f"it holds no model '{wanted}'; it holds {', '.join(names)}")
    return wanted or ("model" if "model" in names else names[0])
