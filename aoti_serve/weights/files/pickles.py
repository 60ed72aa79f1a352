"""Files of torch.save: pickles, which are recognised and never read."""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PurePath

from aoti_serve.errors import PickledWeights
from aoti_serve.errors.file_kinds import LOOKED_AT, ZIP, FileKind, file_kind

SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
INDEX_SUFFIX = ".bin.index.json"
_MOST_LISTED = 3


def is_pickle_name(name: str) -> bool:
    """Whether a file of this name is a pickle by custom, or an index of some."""
    return name.endswith((*SUFFIXES, INDEX_SUFFIX))


def pickle_in(folder: Path) -> Path | None:
    """The pickle in a folder that holds its weights: the index of several, or one; None if there is none."""
    names = sorted(path.name for path in folder.iterdir() if is_pickle_name(path.name))
    likely = sorted(names, key=lambda name: (not name.endswith(INDEX_SUFFIX), not name.startswith("pytorch_model")))
    if not likely:
        return None
    best = [name for name in likely if name.endswith(INDEX_SUFFIX) or name.startswith("pytorch_model")]
    if len(likely) > 1 and not best:
        listed = ", ".join(likely[:_MOST_LISTED]) + ", ..." * (len(likely) > _MOST_LISTED)
        detail = f"the folder {folder} holds {len(likely)} pickles of torch.save's, {listed}, and no safetensors file; "
        raise PickledWeights(detail=f"{detail}convert the one that you mean: `aoti-serve convert FILE OUT.safetensors`")
    return folder / likely[0]


def pickled(place: str, called: str | None = None) -> PickledWeights:
    """The error for the pickle at `place`, with the command that converts it. `called` is another name for it."""
    name = PurePath(place.removesuffix(".index.json")).with_suffix(".safetensors").name
    kind = "names pickles" if place.endswith(INDEX_SUFFIX) else "is a pickle"
    detail = f"{called or place} {kind}, as torch.save writes them, and reading one can run whatever its maker wrote"
    command = shlex.join(["aoti-serve", "convert", place, name])
    return PickledWeights(detail=f"{detail} into it; if you trust it: `{command}`, and take that file")


def check_no_pickle(path: Path) -> None:
    """Raise PickledWeights, which names the file, if it is one. What cannot be read is left to whoever reads it."""
    try:
        with path.open("rb") as file:
            begin, nbytes = file.read(LOOKED_AT), os.fstat(file.fileno()).st_size
    except OSError:
        return
    if int.from_bytes(begin[:8], "little") <= nbytes:
        return  # as long as the header of a safetensors file may be, of 640 bytes for one
    if file_kind(begin) is FileKind.TORCH or (begin.startswith(ZIP) and is_pickle_name(path.name)):
        raise pickled(str(path))
