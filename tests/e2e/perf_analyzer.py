"""perf_analyzer, Triton's load generator, as its authors ship it, and the libraries that it needs beside it.

The newest wheel wants glibc 2.38. On Debian 12, which has 2.36, it is started with the libraries of Debian 13 from a
folder of their own; nothing on the machine is changed.
"""

from __future__ import annotations

import csv
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

VERSION = "2.60.0"
GLIBC = (2, 38)
OLDER, NEWER = "bookworm", "trixie"
LIBRARIES = ("libc6", "libgcc-s1", "libssl3t64", "libstdc++6", "libzstd1", "zlib1g")
SOURCES = Path("/etc/apt/sources.list.d")


class PerfAnalyzer(NamedTuple):
    command: tuple[str, ...]

    def measure(self, *options: str, report: Path) -> list[dict[str, str]]:
        """The rows of its report, one for each concurrency. Fails with its words if it did not finish."""
        command = [*self.command, *options, "-f", str(report)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        with report.open(newline="") as rows:
            return list(csv.DictReader(rows))


def installed(folder: Path) -> PerfAnalyzer:
    """Install it into the folder, if it is not there. Skips where it cannot run."""
    if platform.machine() != "x86_64":
        pytest.skip(f"perf_analyzer has no wheel for {platform.machine()}")
    program = folder / VERSION / "perf_analyzer" / "bin" / "perf_analyzer"
    if not program.exists():
        _fetch(folder / VERSION)
    return PerfAnalyzer((*_loader(folder), str(program)))


def _fetch(folder: Path) -> None:
    wheels = ("--only-binary", ":all:", "--no-deps", "--platform", f"manylinux_{GLIBC[0]}_{GLIBC[1]}_x86_64")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    _run(*pip, *wheels, "--target", str(folder), f"perf-analyzer=={VERSION}")


def _loader(folder: Path) -> tuple[str, ...]:
    """What goes before the program: nothing, where the machine's own libraries are new enough."""
    have = tuple(int(part) for part in platform.libc_ver()[1].split("."))
    if have >= GLIBC:
        return ()
    release = platform.freedesktop_os_release().get("VERSION_CODENAME")
    if release != OLDER:
        pytest.skip(f"perf_analyzer needs glibc {GLIBC}, and libraries are known for Debian's {OLDER} only")
    libraries = folder / NEWER / "usr" / "lib" / "x86_64-linux-gnu"
    if not libraries.exists():
        _fetch_libraries(folder)
    return str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)


def _fetch_libraries(folder: Path) -> None:
    """With apt, from where the machine has its packages; its own lists and caches stay as they are."""
    state = folder / "apt"
    for name in ("sources", "state/lists/partial", "cache/archives/partial", "packages"):
        (state / name).mkdir(parents=True, exist_ok=True)
    for source in SOURCES.glob("debian*.sources"):
        (state / "sources" / source.name).write_text(source.read_text().replace(OLDER, NEWER))
    places = {"State": "state", "State::status": "/dev/null", "Cache": "cache"}
    places |= {"Etc::sourcelist": "/dev/null", "Etc::sourceparts": "sources"}
    options = [f"-oDir::{key}={state / place}" for key, place in places.items()]
    apt = ("apt-get", "-qq", "-oAcquire::Languages=none", "-oAPT::Sandbox::User=root", *options)
    _run(*apt, "update")
    _run(*apt, "download", *LIBRARIES, cwd=state / "packages")
    for package in (state / "packages").glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(state / NEWER))
    (state / NEWER).rename(folder / NEWER)
    shutil.rmtree(state)


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"


def concurrencies(rows: Sequence[dict[str, str]]) -> list[int]:
    """In their order; the report's is that of the throughput."""
    return sorted(int(row["Concurrency"]) for row in rows)
