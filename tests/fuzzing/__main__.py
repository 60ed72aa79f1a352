"""Fuzzes one target in this process until it fails or is told to stop: python -m tests.fuzzing NAME FOLDER [OPTION ...]

FOLDER is the corpus, which grows; the options are libFuzzer's. `scripts/fuzz` starts one for each target.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris


def main() -> None:
    name, folder, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["aoti_serve"]):
        from tests.fuzzing.targets import TARGETS
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        Path(folder, f"seed{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], folder, *options], target.take)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
