"""The weights that are built into a package's library, in a file: what a partial swap on version 0 changes.

Only the library's own code can give them, so it is loaded, in a process of its own: whatever that does, it ends there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from aoti_serve.config import ModelConfig
from aoti_serve.errors import AotiServeError, IncompatiblePackage


def write_built_in(model: ModelConfig, target: Path) -> None:
    """Write the built-in weights of a model's package to `target`, as safetensors.

    Within `stage_timeout_s`. Raises IncompatiblePackage where it cannot be loaded, on a machine without its card for
    one; `target` may be left half written.
    """
    command = [sys.executable, "-m", __name__, str(target)]
    content = model.model_dump_json().encode()
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # also of its operators' modules
    try:
        ended = subprocess.run(
            command, input=content, capture_output=True, timeout=model.stage_timeout_s, check=False, env=paths
        )
    except subprocess.TimeoutExpired as error:
        raise IncompatiblePackage(path=model.package, reason=f"loading it took {error.timeout:g} s") from error
    if ended.returncode:
        said = ended.stdout.decode(errors="replace").strip().rpartition("\n")[2]
        why = said or f"the process that loaded it ended with status {ended.returncode}"
        raise IncompatiblePackage(path=model.package, reason=why)


def _write(model: ModelConfig, target: Path) -> None:
    from safetensors.torch import save_file

    from aoti_serve.model.loading import choose_device, load
    from aoti_serve.model.package import configured_package

    package = configured_package(model)
    library = load(package, 1, choose_device(package, None))
    try:
        found = library.extract()
        save_file({name: tensor.to("cpu", copy=True).contiguous() for name, tensor in found.items()}, target)
    finally:
        library.delete()


if __name__ == "__main__":
    try:
        _write(ModelConfig.model_validate_json(sys.stdin.read()), Path(sys.argv[1]))
    except AotiServeError as error:
        print(error)
        raise SystemExit(1) from error
