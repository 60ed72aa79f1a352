"""A `.pt2` file: what it says of itself, read without running any of its code."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
import zipfile
import zlib
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from aoti_serve.config import ModelConfig
from aoti_serve.errors import IncompatiblePackage, InvalidConfig, UnknownSignature, UnreadablePackage
from aoti_serve.model.signature import Signature
from aoti_serve.tensors import ConstantSpec

SIGNATURE_KEY = "aoti_serve.signature"
WEIGHTS_KEY = "aoti_serve.weights"
WEIGHTS_APART = "apart"
_METADATA = re.compile(r"(?:^|/)data/aotinductor/model/[^/]+wrapper_metadata\.json$")
_LIBRARY = re.compile(r"(?:^|/)data/aotinductor/model/[^/]+\.so$")

_METADATA_FORM = TypeAdapter(dict[str, str])
# What zipfile and zlib raise for archives that are cut off, overwritten, encrypted or compressed in unknown ways.
_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Package:
    """A package on disk. Opening it runs no native code and imports no torch.

    `metadata` is the compiler's (AOTI_DEVICE_KEY, AOTI_MACHINE, ...) and ours; `signature` is ours, written by export.
    """

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        self.path = path
        self.metadata = metadata

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Package:
        """Read the package's metadata; raises UnreadablePackage if `path` is not an AOTInductor package."""
        source = Path(path).resolve()
        try:
            with zipfile.ZipFile(source) as archive:
                name = _only(_METADATA, archive, source)
                return cls(source, _METADATA_FORM.validate_json(archive.read(name)))
        except FileNotFoundError as error:
            raise UnreadablePackage(path=source, detail="no such file") from error
        except _DAMAGE as error:
            raise UnreadablePackage(path=source, detail=f"not a .pt2 archive: {error}") from error

    @cached_property
    def signature(self) -> Signature:
        if SIGNATURE_KEY not in self.metadata:
            raise UnknownSignature(path=self.path)
        try:
            return Signature.model_validate_json(self.metadata[SIGNATURE_KEY])
        except ValidationError as error:
            raise UnreadablePackage(path=self.path, detail=f"signature: {error}") from error

    @property
    def constants(self) -> tuple[ConstantSpec, ...]:
        return self.signature.constants

    @property
    def device(self) -> str:
        """What it was compiled for: `cpu` or `cuda`."""
        return self.metadata.get("AOTI_DEVICE_KEY", "cpu")

    @property
    def carries_weights(self) -> bool:
        """Whether the library holds built-in weights (version 0), or code only."""
        return self.metadata.get(WEIGHTS_KEY) != WEIGHTS_APART

    @cached_property
    def digest(self) -> str:
        """sha256 of the file, in hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def check_runs_here(self) -> None:
        """Refuse a package compiled for another system, machine or CPU, before any of its code is loaded."""
        for key, here in (("AOTI_PLATFORM", platform.system().lower()), ("AOTI_MACHINE", platform.machine())):
            built = self.metadata.get(key, here)
            if built != here:
                raise IncompatiblePackage(path=self.path, reason=f"compiled for {built}, this machine is {here}")
        missing = _required_cpu_flags(self.metadata.get("AOTI_CPU_ISA", "")) - _cpu_flags()
        if self.device == "cpu" and missing:
            raise IncompatiblePackage(path=self.path, reason=f"this CPU lacks {', '.join(sorted(missing))}")

    def extract(self) -> Path:
        """The folder with the package's library, unpacked once per node.

        Runs in any process; several may race, the rename decides and the losers discard their copy. Unpacking for each
        loader again is what dominates load time in the stock one (upstream #169154, #194163).
        """
        target = _cache_root() / self.digest
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
            try:
                with zipfile.ZipFile(self.path) as archive:
                    archive.extractall(scratch)  # drops absolute paths and ".."
                scratch.rename(target)
            except _DAMAGE as error:
                if not target.exists():
                    raise UnreadablePackage(path=self.path, detail=f"cannot be unpacked: {error}") from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        with zipfile.ZipFile(self.path) as archive:
            return (target / _only(_LIBRARY, archive, self.path)).parent


def configured_package(config: ModelConfig) -> Package:
    """The package that a configuration names; raises a PackageError or InvalidConfig if the two do not go together."""
    package = Package.open(config.package)
    package.signature  # noqa: B018 - refused here, where the user reads it, if there is none
    if config.sha256 and config.sha256.lower() != package.digest:
        raise IncompatiblePackage(path=package.path, reason=f"its sha256 is {package.digest}, not {config.sha256}")
    if config.device not in ("auto", package.device):
        reason = f"compiled for {package.device}, the configuration says device: {config.device}"
        raise IncompatiblePackage(path=package.path, reason=reason)
    if config.weights is None and not package.carries_weights:
        detail = f"model '{config.name}': its package carries no weights, so `weights:` must name the first ones"
        raise InvalidConfig(detail=detail)
    return package


def _only(pattern: re.Pattern[str], archive: zipfile.ZipFile, path: Path) -> str:
    names = [name for name in archive.namelist() if pattern.search(name)]
    if len(names) != 1:
        raise UnreadablePackage(path=path, detail="not an AOTInductor package with one model called 'model'")
    return names[0]


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aoti-serve" / "packages"


# Inductor's names for instruction sets, and the CPU flag that each stands for (torch/_inductor/cpu_vec_isa.py).
_ISA_FLAGS = {"AVX2": "avx2", "AVX512": "avx512f", "AVX512_VNNI": "avx512_vnni", "AMX_TILE": "amx_tile"}


def _required_cpu_flags(isa: str) -> set[str]:
    return {_ISA_FLAGS[word] for word in isa.split() if word in _ISA_FLAGS}


def _cpu_flags() -> set[str]:
    """This CPU's flags; where the system does not tell (not Linux on x86), everything, so that nothing is refused."""
    try:
        found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return set(found[1].split()) if found else set(_ISA_FLAGS.values())
