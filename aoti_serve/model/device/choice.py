"""Which device a package runs on here, and what torch says of this machine's devices."""

from __future__ import annotations

import torch

from aoti_serve.errors import IncompatiblePackage
from aoti_serve.model.aoti.c_abi import has_symbol
from aoti_serve.model.archive import preflight
from aoti_serve.model.device import Device
from aoti_serve.model.device.cpu import CpuDevice
from aoti_serve.model.device.cuda import CudaDevice, accelerator, visible_cards
from aoti_serve.model.package import Package
from aoti_serve.signature.tensors import CPU


def choose_device(package: Package, device: str | None) -> torch.device:
    """The device to run on: what the package was compiled for, at the index that was asked for.

    Raises IncompatiblePackage if that is another kind of device.
    """
    try:
        chosen = torch.device(device or package.device)
    except RuntimeError as error:
        raise IncompatiblePackage(path=package.path, reason=str(error)) from error
    if chosen.type != package.device:
        reason = f"compiled for {package.device}, asked to run on {device}"
        raise IncompatiblePackage(path=package.path, reason=reason)
    chosen = chosen if chosen.type == CPU else torch.device(chosen.type, chosen.index or 0)
    preflight.check_machine(package.path, package.metadata)
    preflight.check_device(package.path, package.metadata, host_facts(), chosen.index or 0)
    return chosen


def open_device(device: torch.device, num_runners: int) -> Device:
    """The device itself; a card gets as many streams as there are runners."""
    return CpuDevice() if device.type == CPU else CudaDevice(device.index or 0, num_runners)


def host_facts() -> preflight.HostFacts:
    """What the checks before loading need to know of this torch and its cards."""
    return preflight.HostFacts(torch.__version__, accelerator(), tuple(visible_cards()), has_symbol)
