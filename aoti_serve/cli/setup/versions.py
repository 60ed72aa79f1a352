"""`aoti-serve --version`: ours, and those of what decides with us whether a package runs."""

from __future__ import annotations

import platform
from importlib.metadata import version

from aoti_serve import __version__

BESIDE = ("torch", "ray")


def versions_here() -> dict[str, str]:
    """The versions, by name; ours first. Imports neither torch nor Ray."""
    return (
        {"aoti-serve": __version__} | {name: version(name) for name in BESIDE} | {"python": platform.python_version()}
    )
