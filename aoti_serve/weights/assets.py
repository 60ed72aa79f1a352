"""Assets: the files that a processor reads with a version of the weights, such as a tokenizer or the names of classes.

They are sent, or found beside the weights, before the swap that names them by their sha256. A version keeps all of its
files as one, in safetensors' format: each file is a tensor of bytes under its name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aoti_serve.errors import TryAgain, UnfitAssets, quantity
from aoti_serve.weights.offers import Offers
from aoti_serve.weights.store.checkup import checked_assets
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Asset, Assets, Version

MAX_ASSETS_BYTES: Final = 64 * 2**20

AssetFiles = Mapping[str, bytes]


def bundle(files: AssetFiles) -> bytes:
    """One file of them all. Raises UnfitAssets if they are too much."""
    if (total := sum(map(len, files.values()))) > MAX_ASSETS_BYTES:
        most = quantity(MAX_ASSETS_BYTES, "bytes")
        raise UnfitAssets(detail=f"{', '.join(sorted(files))} have {quantity(total, 'bytes')}; the most is {most}")
    content: bytes = save({name: np.frombuffer(files[name], np.uint8) for name in sorted(files)})
    return content


def unbundled(content: bytes) -> AssetFiles:
    """The files in what `bundle` has made. Raises UnfitAssets for anything else."""
    try:
        return {name: array.tobytes() for name, array in load(content).items()}
    except SafetensorError as error:
        raise UnfitAssets(detail=f"not a whole file of assets: {error}") from error


def described_assets(content: bytes) -> Assets:
    """What a version says of such a file. Raises UnfitAssets for any other."""
    files = tuple(
        Asset(name=name, digest=hashlib.sha256(file).hexdigest(), nbytes=len(file))
        for name, file in sorted(unbundled(content).items())
    )
    return Assets(digest=hashlib.sha256(content).hexdigest(), nbytes=len(content), files=files)


def read_asset(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that may be an asset. Raises UnfitAssets for one that is not there, empty, or too large."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_ASSETS_BYTES + 1)
    except OSError as error:
        raise UnfitAssets(detail=f"{path}: {error.strerror}") from error
    if not content:
        raise UnfitAssets(detail=f"{path} is empty")
    if len(content) > MAX_ASSETS_BYTES:
        raise UnfitAssets(detail=f"{path} has more than {quantity(MAX_ASSETS_BYTES, 'bytes')}")
    return content


def given_assets(places: Iterable[str]) -> AssetFiles:
    """The assets in files of this host, each given as its path, or as `name=path` where it has another name.

    Raises UnfitAssets.
    """
    found: dict[str, bytes] = {}
    for place in places:
        name, separate, path = place.rpartition("=")
        name = name if separate else os.path.basename(path)
        if name in found:
            raise UnfitAssets(detail=f"two files are called '{name}'")
        found[name] = read_asset(path)
    return found


def assets_in(folder: Path, names: Iterable[str]) -> AssetFiles:
    """Those of these names that lie in a folder of this host; none if it is no folder."""
    return {name: read_asset(folder / name) for name in names if (folder / name).is_file()}


def digests_of(files: AssetFiles) -> dict[str, str] | None:
    """The sha256 of each, as a swap names them; None for none."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} or None


class OfferedAssets(Offers):
    """Files that were offered as assets."""

    kind, kept = "asset", 64

    def take(self, upload: Path) -> str:
        """Keep an upload, which is moved; its sha256. Raises UnfitAssets, and then it is gone."""
        try:
            digest = hashlib.sha256(read_asset(upload)).hexdigest()
            self._keep(upload, digest)
        finally:
            self._store.discard(upload)
        return digest

    def offer(self, content: bytes) -> str:
        """Keep a file that is here already; its sha256."""
        path = self._store.incoming()
        path.write_bytes(content)
        return self.take(path)

    def read(self, name: str, digest: str) -> bytes:
        """A file that was offered. Raises TryAgain if it is not there."""
        try:
            return read_asset(self._path(digest))
        except UnfitAssets as error:
            detail = f"asset '{name}' with sha256 {digest} is not here, or not any more; send it again"
            raise TryAgain(detail=detail) from error


class VersionAssets:
    """Decides which assets a new version has: those that were given, and for the rest those of the version before.

    `declared` are the names that the model's processor reads. Runs in the coordinator's threads.
    """

    def __init__(self, store: Store, model: str, declared: Collection[str]) -> None:
        self._store = store
        self._model = model
        self._declared = declared

    def bundle_of(self, given: Mapping[str, str] | None, current: Version) -> bytes | None:
        """The bundle of a version with the `given` files, by name and sha256; None if it has none.

        Raises UnfitAssets for names that nothing declares, StoreDamaged, and what `OfferedAssets.read` does.
        """
        self._check_declared(given or ())
        offered = OfferedAssets(self._store)
        kept = self._files_of(current) if self._declared else {}
        files = {name: file for name, file in kept.items() if name in self._declared}
        files |= {name: offered.read(name, digest) for name, digest in (given or {}).items()}
        return bundle(files) if files else None

    def _files_of(self, version: Version) -> AssetFiles:
        content = checked_assets(self._store, version)
        return {} if content is None else unbundled(content)

    def _check_declared(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._declared:
                known = ", ".join(sorted(self._declared)) or "none (processor.assets)"
                raise UnfitAssets(detail=f"the processor of model '{self._model}' reads no '{name}'; it reads {known}")
