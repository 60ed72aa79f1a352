"""Applications, as Serve sees them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aoti_serve.errors import StartFailed
from aoti_serve.launcher.cluster.applications import Applications, is_hopeless, reason_of
from aoti_serve.launcher.cluster.draining import is_ours
from aoti_serve.launcher.configuration.config_file import ConfigFile

# As Serve gives it: Ray's traceback with the whole of ours in it, once for each process that it came through.
TRACEBACK = """The deployment failed to start 1 times in a row. Retrying 2 more times. Error:
ray.exceptions.RayTaskError: ray::ServeReplica:default:gateway.initialize_and_get_metadata()
  File "/x/aoti_serve/gateway/listener/port.py", line 42, in bind
    raise PortTaken(port=port, host=host, holder=other)
aoti_serve.errors.server.PortTaken: port 8000 of 127.0.0.1 is taken by python (pid 7): end it

The above exception was the direct cause of the following exception:
RuntimeError: Traceback (most recent call last):
aoti_serve.errors.server.PortTaken: port 8000 of 127.0.0.1 is taken by python (pid 7): end it
"""


@pytest.mark.parametrize(
    ("deployments", "ours"),
    [
        (["digits-coordinator", "digits-replica", "gateway"], True),
        (["gateway"], False),
        (["other"], False),
        ([], False),
    ],
)
def test_whose_gateways_can_be_asked(deployments: list[str], ours: bool) -> None:
    assert is_ours(deployments) is ours


@pytest.mark.parametrize(
    ("message", "deployment", "reason"),
    [
        ("", TRACEBACK, "port 8000 of 127.0.0.1 is taken by python (pid 7): end it"),
        (
            "Failed to update the deployments ['gateway'].",
            TRACEBACK,
            "port 8000 of 127.0.0.1 is taken by python (pid 7): end it",
        ),
        ("Traceback\n  ImportError: no such thing\n", "", "ImportError: no such thing (Ray's logs"),
        ("", "", "Serve gives no reason"),
    ],
)
def test_the_reason_is_one_line(message: str, deployment: str, reason: str) -> None:
    application = SimpleNamespace(message=message, deployments={"gateway": SimpleNamespace(message=deployment)})
    assert reason_of(application).startswith(reason)
    assert "\n" not in reason_of(application)


@pytest.mark.parametrize(
    ("message", "hopeless"),
    [
        (TRACEBACK, True),
        ("aoti_serve.errors.weights.MissingTensor: tensor 'w': missing", True),
        ("aoti_serve.errors.server.Unavailable: the coordinator is being started", False),
        ("aoti_serve.errors.weights.StoreDamaged: weights store /s: CURRENT is damaged: it has 1 byte", True),
        ("aoti_serve.errors.weights.StoreFailed: weights store /s: [Errno 30] Read-only file system: '/s/TERM'", True),
        ("aoti_serve.errors.weights.StoreFailed: weights store /s: [Errno 28] No space left on device", False),
        ("aoti_serve.errors.weights.StoreFailed: weights store /s: the disk is full: 9 bytes are needed", False),
        ("RuntimeError: CUDA error", False),
        ("", False),
    ],
)
def test_what_a_second_try_cannot_change_is_not_tried_again(message: str, hopeless: bool) -> None:
    application = SimpleNamespace(message="", deployments={"gateway": SimpleNamespace(message=message)})
    assert is_hopeless(application) is hopeless


@pytest.fixture
def default() -> Applications:
    return Applications(ConfigFile(Path("serve.yaml"), {"applications": [{"name": "default"}]}, []))


def deploying(message: str) -> dict[str, Any]:
    gateway = SimpleNamespace(message=message, replica_states={"STARTING": 2})
    return {"default": SimpleNamespace(status="DEPLOYING", message="", deployments={"gateway": gateway})}


def test_what_serve_says_of_a_deployment_is_told_once(default: Applications, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    error = "ray.exceptions.RayTaskError\naoti_serve.errors.server.Unavailable: the coordinator is being started"
    for message in ("", error, error, "Retrying.\n" + error, "It takes long.", "It takes long."):
        monkeypatch.setattr(default, "statuses", partial(deploying, message))
        told += default.progress().news
    assert told == ["gateway: the coordinator is being started", "gateway: It takes long."]


def test_what_ends_a_start_is_told_by_its_error_alone(default: Applications, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though Serve first speaks of it between one question and the next."""
    answers = iter(("", TRACEBACK, TRACEBACK))
    monkeypatch.setattr(default, "statuses", lambda: deploying(next(answers)))
    assert default.progress().news == []
    with pytest.raises(StartFailed, match="is taken by python"):
        default.progress()
