"""The baselines' environments, made on demand in var/baselines, and the clients."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from httpbench.servers import Failed

ROOT = Path(__file__).resolve().parents[3]
BASELINES = ROOT / "scripts" / "baselines"


def installed(name: str) -> Path:
    """The Python of the environment for scripts/baselines/<name>.txt, installed first if it is not there.

    What is installed also holds what <name>_repair.py, if there is one, has done to it.
    """
    repair = BASELINES / f"{name}_repair.py"
    wanted = (BASELINES / f"{name}.txt").read_text() + (repair.read_text() if repair.exists() else "")
    folder = ROOT / "var" / "baselines" / name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"installing {name} into {folder.relative_to(ROOT)} (once)")
        _install(name, folder)
        if repair.exists():
            _run(str(python), str(repair))
        stamp.write_text(wanted)
    return python


def _install(name: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(folder))
    requirements = BASELINES / f"{name}.txt"
    install = (str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check")
    for torch in (line for line in requirements.read_text().splitlines() if line.startswith("torch==")):
        _run(*install, torch)  # first and alone: anything else that wants it would fetch another build
    _run(*install, "-r", str(requirements))


def require_client(program: str, package: str) -> None:
    """There is such a program after this; raises Failed if none can be had. `package` is Debian's."""
    if shutil.which(program):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failed(f"{program} is needed to measure; install it (Debian: apt-get install {package})")
    say(f"installing {program}")
    _run("apt-get", "-qq", "update")
    _run("apt-get", "-qq", "install", "-y", package)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)} failed:\n{done.stdout}")


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
