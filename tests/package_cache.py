"""Compiled packages that several tests share: each is compiled once, and again only if what it is made of changes.

pytest-xdist's workers and later runs share the folder, which is part of pytest's own cache: `pytest --cache-clear`
empties it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from filelock import FileLock

ROOT = Path(__file__).parent.parent
COMPILER = [ROOT / "aoti_serve" / room for room in ("model", "signature")]


class PackageCache:
    """A folder with one entry, a folder, for each name. Nothing may be written into an entry that is complete."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._platform = f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {_compiler_version()}"

    def entry(self, name: str, make: Callable[[Path], object], *sources: Path) -> Path:
        """The folder of `name`. `make` fills it if it is missing, or if `sources`, or the compiler, have changed."""
        wanted = self._root / f"{name}-{self._key(sources)}"
        with FileLock(self._root / f"{name}.lock"):
            if not wanted.exists():
                for outdated in self._root.glob(f"{name}-*"):
                    shutil.rmtree(outdated)
                scratch = self._root / f"{name}-unfinished"
                scratch.mkdir()
                make(scratch)
                scratch.rename(wanted)
        return wanted

    def _key(self, sources: Iterable[Path]) -> str:
        digest = hashlib.sha256(self._platform.encode())
        for folder in COMPILER:
            sources = [*sources, *folder.rglob("*.py")]
        for path in sorted(sources):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
        return digest.hexdigest()[:16]


def _compiler_version() -> str:
    return subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True).stdout.partition("\n")[0]
