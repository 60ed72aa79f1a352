"""What every benchmark of servers has around it: a folder, a way out, its options, and where its result is kept."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from httpbench.environments import ROOT, require_client, say
from httpbench.servers import Failed


@contextmanager
def bench(**clients: str) -> Iterator[Path]:
    """A folder for the run, in which torch has one thread. `clients` are the programs it needs, with their packages.

    All that was started is ended on the way out. What has Failed is the last line, with status 1.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(1)
    try:
        for program, package in clients.items():
            require_client(program, package)
        with TemporaryDirectory(prefix="httpbench") as folder:
            yield Path(folder)
    except Failed as failure:
        sys.exit(f"error: {failure}")


def keep(name: str, result: dict[str, Any]) -> None:
    """Write var/bench/<name>.json."""
    path = ROOT / "var" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
    say(f"saved {path}")


def names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes some of the known names, with commas between them."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no contender is called {', '.join(unknown)}: {', '.join(known)} are")
        return chosen

    return names
