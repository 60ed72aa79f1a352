"""What Ray's processes are told by their environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from aoti_serve.cli.haproxy import PROGRAM

from aoti_serve.launcher.settings import HARD_STOP, LOCAL_ONLY, PORTS, chosen_ports, ray_settings, ray_variables


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)


def test_the_plain_ingress_needs_little(tmp_path: Path) -> None:
    assert not any("HAPROXY" in name for name in ray_settings(tmp_path, fast=False, drain_s=30))
    assert list(tmp_path.iterdir()) == []


def test_the_fast_ingress_runs_haproxy_through_our_script(tmp_path: Path) -> None:
    settings = ray_settings(tmp_path, fast=True, drain_s=30)
    assert settings["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert Path(settings[PROGRAM]).parent == tmp_path
    assert os.access(settings[PROGRAM], os.X_OK)
    assert len({settings[setting] for setting in PORTS}) == len(PORTS)


@pytest.mark.parametrize("drain_s", [0, 30, 1000])
def test_haproxy_lets_requests_end_for_longer_than_we_do(tmp_path: Path, drain_s: float) -> None:
    assert int(ray_settings(tmp_path, fast=True, drain_s=drain_s)[HARD_STOP]) > drain_s


def test_what_is_set_already_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "1234")
    settings = ray_settings(tmp_path, fast=True, drain_s=30)
    assert "RAY_SERVE_HAPROXY_STATS_PORT" not in settings
    assert chosen_ports() == {1234: "HAProxy's statistics"}


def test_what_a_program_needs_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_variables("h:1") == "RAY_AUTH_MODE=token RAY_ADDRESS=h:1"
    monkeypatch.setenv(LOCAL_ONLY, "0")
    assert ray_variables("h:1") == f"{LOCAL_ONLY}=0 RAY_AUTH_MODE=token RAY_ADDRESS=h:1"
