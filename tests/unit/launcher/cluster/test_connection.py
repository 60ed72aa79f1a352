"""What Ray's processes are told by their environment."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aoti_serve.launcher.cluster.connection import LOCAL_ONLY, WANTED, prepare_for_ray, ray_variables


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)
    before = os.umask(0o022)
    yield
    os.umask(before)
    for name in list(os.environ):
        if name.startswith("RAY_"):
            del os.environ[name]


def test_what_is_set_already_stays() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "1"
    prepare_for_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert all(os.environ[key] == value for key, value in WANTED.items() if key != "RAY_USAGE_STATS_ENABLED")


def test_what_ray_writes_from_now_on_is_for_its_owner_only() -> None:
    prepare_for_ray()
    assert os.umask(0o022) == 0o077


def test_what_a_program_needs_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_variables("h:1", token=True) == "RAY_AUTH_MODE=token RAY_ADDRESS=h:1"
    monkeypatch.setenv(LOCAL_ONLY, "0")
    assert ray_variables("h:1", token=False) == f"{LOCAL_ONLY}=0 RAY_ADDRESS=h:1"
