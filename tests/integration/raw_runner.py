"""Runs the programs on the bare runtime, for `raw.lab`.

`python -m tests.integration.raw_runner FOLDER [NAME ...]` runs each program, or those that are named, on the foreign
packages in the folder: in a process of its own, forked so that torch is imported once. It writes what became of each
to FOLDER/rows.json: how it ended, and what it said.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aoti_serve.errors import AotiServeError
from tests.integration import raw_calls, raw_weights
from tests.integration.raw import ROWS

PROGRAMS = (raw_calls, raw_weights)  # which fill ROWS


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    only = sys.argv[2:]
    endings = {name: _ending(name, program, folder) for name, program in ROWS.items() if not only or name in only}
    (folder / "rows.json").write_text(json.dumps(endings))


def _ending(name: str, program: Callable[[Path], dict[str, Any]], folder: Path) -> tuple[int, dict[str, Any]]:
    said = folder / f"{name}.json"
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            result = program(folder)
        except (RuntimeError, AotiServeError) as error:
            result = {"error": str(error)}
        said.write_text(json.dumps(result))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, json.loads(said.read_text()) if said.exists() else {}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
