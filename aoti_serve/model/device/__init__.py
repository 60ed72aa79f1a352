"""Devices: where constants lie, and what may copy, run, fold and flip when. One module for each kind.

The methods are described at `CpuDevice` and `HostBlock`; those of a card have the same.
"""

from __future__ import annotations

from typing import Final

CHUNK: Final = 64 * 2**20  # bytes; what one step of a copy moves
