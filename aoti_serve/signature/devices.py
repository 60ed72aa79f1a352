"""The kinds of devices that packages are compiled for, by torch's names for them."""

from __future__ import annotations

from typing import Final, Literal, get_args

DeviceKind = Literal["cpu", "cuda"]
DEVICE_KINDS: Final[tuple[str, ...]] = get_args(DeviceKind)
CPU, CUDA = DEVICE_KINDS
