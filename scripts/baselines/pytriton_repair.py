"""Let pytriton 0.7.0 run on CPython 3.11.5 and later; run once in its environment, after the installation.

Its bundled interpreter is older than the standard library that it finds, whose resource tracker asks its lock how often
it is held: the bundled `RLock` cannot say. Any process that shares memory needs the repair, at its first tensor.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

BEFORE = "LOGGER = logging.getLogger(__name__)\n"
REPAIR = """
import multiprocessing.resource_tracker
import threading

if not hasattr(threading.RLock(), "_recursion_count"):
    multiprocessing.resource_tracker._resource_tracker._lock = threading._PyRLock()
"""


def main() -> None:
    found = find_spec("pytriton")
    assert found is not None, "pytriton is not installed"
    assert found.origin is not None, "pytriton has no place"
    path = Path(found.origin).parent / "proxy" / "data.py"
    source = path.read_text()
    assert source.count(BEFORE) == 1, f"{path} is not the one that was seen to need the repair"
    if REPAIR not in source:
        path.write_text(source.replace(BEFORE, BEFORE + REPAIR))


if __name__ == "__main__":
    main()
