"""HAProxy's configuration as Ray writes it, and what becomes of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from ray.serve._private import haproxy_templates

from aoti_serve.cli.haproxy import adapted, write_wrapper

CONFIG = """global
    log 127.0.0.1:514 local0 info
    maxconn 4096
defaults
    mode http
    errorfile 502 /ray/500.http
    errorfile 503 /ray/500.http
    errorfile 504 /ray/500.http
    balance leastconn
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind *:8000
listen stats
  bind *:8404
  stats enable
"""


def test_statistics_and_metrics_are_bound_to_loopback_and_http_is_left_alone() -> None:
    lines = [line.strip() for line in adapted(CONFIG, Path("/ours"), logs=False).splitlines() if "bind" in line]
    assert lines == ["bind 127.0.0.1:9101", "bind *:8000", "bind 127.0.0.1:8404"]


def test_our_error_pages_take_the_place_of_rays() -> None:
    lines = [line for line in adapted(CONFIG, Path("/ours"), logs=False).splitlines() if "errorfile" in line]
    assert lines == [f"    errorfile {status} /ours/{status}.http" for status in (502, 503, 504)]


def test_nothing_is_logged_to_nobody() -> None:
    assert "log 127.0.0.1" not in adapted(CONFIG, Path("/ours"), logs=False)
    assert "    log 127.0.0.1:514 local0 info\n" in adapted(CONFIG, Path("/ours"), logs=True)


def test_what_was_adapted_stays_as_it_is() -> None:
    once = adapted(CONFIG, Path("/ours"), logs=False)
    assert adapted(once, Path("/ours"), logs=False) == once


def test_a_configuration_of_another_kind_stays_as_it_is() -> None:
    assert adapted("listen all\n  bind *:8404\n", Path("/ours"), logs=False) == "listen all\n  bind *:8404\n"


@pytest.mark.parametrize(
    "known",
    [
        "frontend prometheus\n    bind :{{",
        "listen stats\n  bind *:{{",
        "    errorfile 503 {{ config.error_file_path }}\n",
        "    log {{ config.log_target }} local0",
    ],
)
def test_this_version_of_ray_still_writes_what_is_adapted(known: str) -> None:
    assert known in haproxy_templates.HAPROXY_CONFIG_TEMPLATE


def test_the_wrapper_adapts_the_file_and_becomes_the_program(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o700)
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    folder = tmp_path / "a folder"
    folder.mkdir()
    script = write_wrapper(folder, str(program))
    done = subprocess.run([script, "-db", "-f", config, "-sf", "7"], capture_output=True, text=True, check=True)
    assert done.stdout == f"-db -f {config} -sf 7\n"
    assert config.read_text() == adapted(CONFIG, folder, logs=False)


def test_an_error_page_is_http_with_a_reason_in_json(tmp_path: Path) -> None:
    write_wrapper(tmp_path, "/bin/true")
    head, _, body = (tmp_path / "503.http").read_bytes().partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ") for field in fields)
    assert first == "HTTP/1.1 503 Service Unavailable"
    assert int(headers["Content-Length"]) == len(body)
    assert headers["Retry-After"] == "1"
    assert list(json.loads(body)) == ["error"]
