"""The device that a package is run on, chosen before any of its code is loaded; and the threads of a run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from aoti_serve.errors import IncompatiblePackage
from aoti_serve.model.loading import choose_device, set_threads
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


def test_a_threads_count_is_its_own_whatever_another_sets_before_its_first_run() -> None:
    with ThreadPoolExecutor(1) as runner, ThreadPoolExecutor(1) as stager:
        runner.submit(set_threads, 1).result()
        stager.submit(set_threads, 3).result()
        assert runner.submit(torch.get_num_threads).result() == 1
