"""The device that a package is run on, chosen before any of its code is loaded; and the threads of a run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from aoti_serve.errors import IncompatiblePackage
from aoti_serve.model.loading import IntraOpThreads, choose_device
from aoti_serve.model.package import Package


def package(**facts: str) -> Package:
    return Package(Path("/models/demo.pt2"), "model", facts)


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0"])
def test_code_for_the_cpu_runs_there(device: str | None) -> None:
    assert choose_device(package(), device) == torch.device("cpu")


@pytest.mark.parametrize(
    ("facts", "device", "reason"),
    [
        pytest.param({"AOTI_DEVICE_KEY": "xpu"}, None, "compiled for xpu, only cpu and cuda are served", id="unknown"),
        pytest.param({}, "cuda", "compiled for cpu, asked to run on cuda", id="another"),
        pytest.param({}, "nonsense", "nonsense", id="no-device"),
        pytest.param({"AOTI_MACHINE": "sparc64"}, None, "compiled for sparc64", id="another-machine"),
    ],
)
def test_a_device_that_does_not_fit_is_refused(facts: dict[str, str], device: str | None, reason: str) -> None:
    with pytest.raises(IncompatiblePackage, match=reason):
        choose_device(package(**facts), device)


def test_work_has_its_threads_whatever_other_work_has() -> None:
    with ThreadPoolExecutor(1) as runner, ThreadPoolExecutor(1) as stager:
        assert runner.submit(threads_within, 1).result() == 1
        assert stager.submit(threads_within, 3).result() == 3
        assert runner.submit(threads_within, 1).result() == 1


def threads_within(count: int) -> int:
    with IntraOpThreads(count):
        return torch.get_num_threads()


def test_a_caller_keeps_the_threads_it_had() -> None:
    with IntraOpThreads(5):
        with pytest.raises(ZeroDivisionError), IntraOpThreads(2):
            _ = 1 / 0
        assert torch.get_num_threads() == 5
