"""Fuzzes every target, each in a process and a folder of its own, and tells what came of it.

    scripts/fuzz [--minutes 10] [--jobs 1] [TARGET ...]

The corpus stays in var/fuzz/TARGET, so that the next campaign goes on from there. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.fuzzing.targets import TARGETS

FOLDER = Path(__file__).parents[2] / "var" / "fuzz"
SLOWEST_S = 60  # of the wall clock, on a machine that may be busy: a single input that takes longer is a fault


class Fuzzed(NamedTuple):
    """`covered`: branches of our code. `failed`: the end of what was said of an input that let an error out."""

    name: str
    inputs: int
    covered: int
    failed: str

    @property
    def row(self) -> str:
        return f"| {self.name} | {self.inputs:,} | {self.covered:,} | {'failed' if self.failed else 'none'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    print("| target | inputs | branches reached | failures |\n|---|---|---|---|", flush=True)
    failed = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(partial(fuzz, seconds=round(options.minutes * 60)), options.targets or TARGETS):
            print(found.row, flush=True)
            failed += [found.failed] * bool(found.failed)
    print(*failed, sep="\n", file=sys.stderr)
    sys.exit(bool(failed))


def fuzz(name: str, seconds: int) -> Fuzzed:
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-timeout={SLOWEST_S}", f"-artifact_prefix={FOLDER}/{name}-"]
    command = [sys.executable, "-m", "tests.fuzzing", name, str(corpus), *limits]
    with tempfile.TemporaryDirectory() as folder:  # libFuzzer ends the process before it could tidy up
        env = os.environ | {"TMPDIR": folder}
        done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    progress = re.findall(r"^#(\d+)\s.*cov: (\d+)", said, re.MULTILINE)
    inputs, covered = map(int, progress[-1] if progress else (0, 0))
    return Fuzzed(name, inputs, covered, f"{name}: status {done.returncode}\n{said[-2000:]}" if done.returncode else "")


if __name__ == "__main__":
    main()
