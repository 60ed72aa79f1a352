"""Errors of packages: making one, opening one, loading one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from aoti_serve.errors.base import AotiServeError


class PackageError(AotiServeError):
    """A package cannot be used here. No client gets this error, so it may quote a compiler or a signature in full."""

    longest: ClassVar[int] = 2**16


class UnreadablePackage(PackageError, text="package {path}: {detail}"):
    """Not an AOTInductor package."""

    path: Path | str
    detail: str


class UnknownSignature(PackageError):
    """The package has no signature."""

    text = (
        "package {path} does not say what its inputs are called, or their dtypes and shapes. Package the model with "
        "`aoti-serve package my_module:make_model --out model.pt2`, or declare its `signature:` in the configuration:"
        "\n{snippet}"
    )
    path: Path | str
    snippet: str


class IncompatiblePackage(PackageError, text="package {path} will not run here: {reason}"):
    """The package was compiled for another machine, or differs from its own signature."""

    path: Path | str
    reason: str


class CannotPrepare(PackageError, text="'{name}' is prepared by {by}, and {reason}; package it with --no-prepare"):
    """This machine cannot prepare weights as the package says."""

    name: str
    by: str
    reason: str


class WrongOutput(PackageError, text="output '{name}' is {got}, but the configuration's `signature` says {declared}"):
    """The code gives an output that differs from its declaration."""

    name: str
    got: str
    declared: str


class MissingOperators(PackageError):
    """The package calls custom operators that no imported module defines."""

    text = (
        "package {path} needs operators that are not registered here: {names}; "
        "name the Python modules that define them in `operators`"
    )
    path: Path | str
    names: Sequence[str]


class BakedConstants(PackageError):
    """Some parameters were compiled into the code and could never be swapped."""

    text = (
        "these parameters or buffers were compiled in and could not be swapped: {names}; with --allow-baked "
        "(allow_baked=True) the package is written all the same, and refuses updates of them"
    )
    names: Sequence[str]


class ExportFailed(PackageError):
    """torch.export or the compiler refused the module; the cause is theirs."""

    text = "torch could not {phase} the module: {kind}: {detail}{hint}"
    phase: str
    kind: str
    detail: str
    hint: str


class UnsupportedModule(PackageError):
    """The module's inputs or outputs cannot be described in a signature."""

    detail: str


class CannotQuantize(PackageError, text="cannot quantize the module: {detail}"):
    """The module, its device or the kind of quantisation is none that can be quantised."""

    detail: str


class TooInaccurate(PackageError):
    """A quantised package answers too differently from the module; it was not written."""

    text = (
        "quantized to {quantize}, the package answers its example inputs with a cosine of {cosine} to the module's own "
        "answers, the least that is allowed is {limit} (--min-cosine); its largest error is {largest}, the mean one "
        "{mean}. Give example inputs that are like real ones, allow less, or package the module without --quantize"
    )
    quantize: str
    cosine: float
    limit: float
    largest: float
    mean: float


class UnfitForInt8(PackageError):
    """A package that was quantised to int8 would answer wrongly in this process."""

    text = (
        "a package that was quantized to int8 would answer wrongly here: {reason}; serve it elsewhere, or package the "
        "module without --quantize"
    )
    reason: str
