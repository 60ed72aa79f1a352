from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from tests.e2e.served import PROGRAM, START_S, Eager, Server, binary_request, logits_of
from tests.e2e.wire import until

Images = NDArray[np.float32]


def test_fifty_swaps_under_traffic_lose_nothing_and_mix_nothing(server: Server, eager: Eager, images: Images) -> None:
    """4 connections; every answer is that of the version it names, none is older than the last swap that returned."""
    sample = images[:8]
    want = {name: eager.logits(name, sample) for name in ("v1", "v2")}
    assert server.swap(eager.files["v1"], label="v1").status_code == 200
    known = {server.status()["current"]["number"]: "v1"}
    returned, stop, problems = max(known), threading.Event(), []
    answers: list[int] = []

    def ask() -> None:
        body, headers = binary_request(sample)
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            while not stop.is_set():
                floor = returned
                response = client.post("/v2/models/digits/infer", content=body, headers=headers)
                if response.status_code != 200:
                    problems.append(response.text)
                    continue
                version, logits = logits_of(response)
                answers.append(version)
                name = "v1" if (version - first) % 2 == 0 else "v2"
                if version < floor or not np.allclose(logits, want[name], atol=1e-4):
                    problems.append(f"version {version} ({name}), at least {floor} expected")

    first = returned
    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(ask) for _ in range(4)]
        for turn in range(1, 51):
            name = "v1" if turn % 2 == 0 else "v2"
            response = server.swap(eager.files[name], label=name)
            assert response.status_code == 200, response.text
            returned = response.json()["current"]["number"]
            assert returned == first + turn
        stop.set()
        for done in running:
            done.result()
    assert not problems, problems[:3]
    assert len(set(answers)) > 25
    receipts = server.status()["replicas"]
    assert [(receipt["version"], receipt["digest"]) for receipt in receipts] == [
        (returned, server.status()["current"]["digest"])
    ] * 2


def spoiled(content: bytes, kind: str) -> bytes:
    tensors = load(content)
    name = "classify.bias"
    match kind:
        case "truncated":
            return content[:-100]
        case "pickle":
            return pickle.dumps({"weights": [1, 2, 3]})
        case "missing":
            del tensors[name]
        case "extra":
            tensors["stranger"] = torch.ones(3)
        case "shape":
            tensors[name] = torch.ones(11)
        case "dtype":
            tensors[name] = tensors[name].double()
        case "diverged":
            tensors[name][3] = torch.nan
    return save(tensors)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        pytest.param("truncated", "safetensors", id="truncated"),
        pytest.param("pickle", "safetensors", id="pickle"),
        pytest.param("missing", "'classify.bias'", id="missing"),
        pytest.param("extra", "'stranger'", id="extra"),
        pytest.param("shape", "'classify.bias'", id="shape"),
        pytest.param("dtype", "'classify.bias'", id="dtype"),
        pytest.param("diverged", "'classify.bias': 1 NaN and 0 infinite of 10 values", id="diverged"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(
    server: Server, eager: Eager, images: Images, kind: str, says: str
) -> None:
    before = server.status()
    response = server.swap(spoiled(eager.files["v2"], kind))
    assert response.status_code == 400
    assert says in response.json()["error"]
    check_unchanged(server, before, images)


def test_weights_that_have_diverged_are_taken_only_if_that_is_asked_for(server: Server, eager: Eager) -> None:
    """And the audit log says that it was."""
    before = server.status()["current"]["number"]
    asked = server.swap(spoiled(eager.files["v2"], "diverged"), skip_acceptance=True)
    assert (asked.status_code, asked.json()["current"]["number"]) == (200, before + 1)
    assert server.rollback().json()["current"]["number"] == before
    lines = [json.loads(line) for line in (server.store / "audit.jsonl").read_text().splitlines()]
    skipped = [line["version"] for line in lines if line.get("skipped_acceptance") and line["outcome"] == "committed"]
    assert skipped == [before + 1]


def check_unchanged(server: Server, before: Any, images: Images) -> None:
    after = server.status()
    assert (after["current"], after["epoch"], after["swap"]) == (before["current"], before["epoch"], None)
    assert server.infer(images[:1])[0] == before["current"]["number"]


def test_without_the_right_token_nothing_changes(server: Server, eager: Eager, images: Images) -> None:
    before = server.status()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic abc"}):
        kind = {"Content-Type": "application/octet-stream"}
        swap = server.http.post("/v2/models/digits/weights", content=eager.files["v2"], headers=headers | kind)
        rollback = server.http.post("/v2/models/digits/weights/rollback", headers=headers)
        status = server.http.get("/v2/models/digits/weights", headers=headers)
        assert [swap.status_code, rollback.status_code, status.status_code] == [401] * 3
        assert "error" in swap.json()
    check_unchanged(server, before, images)


def test_a_second_swap_during_a_swap_gets_a_409(server: Server, eager: Eager, images: Images) -> None:
    """A stopped replica holds the first swap in its stage."""
    before = server.status()
    held = psutil.Process(before["replicas"][0]["pid"])
    held.suspend()
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.swap, eager.files["v2"])
            wait_for_phase(server, "staging")
            second = server.swap(eager.files["v1"])
            rollback = server.rollback()
            held.resume()
            assert first.result().status_code == 200
    finally:
        held.resume()
    assert [second.status_code, rollback.status_code] == [409, 409]
    assert "in progress" in second.json()["error"]
    assert server.status()["current"] == first.result().json()["current"]


def wait_for_phase(server: Server, phase: str) -> None:
    assert any(status["swap"] and status["swap"]["phase"] == phase for status in server.events())


def test_a_uri_under_the_allowed_roots_swaps_and_others_are_refused(
    server: Server, digits_dir: Path, images: Images
) -> None:
    response = server.swap_uri(str(digits_dir / "v2.safetensors"), label="by uri")
    assert response.status_code == 200
    assert response.json()["current"]["label"] == "by uri"
    before = server.status()
    assert server.swap_uri("/etc/passwd").status_code == 403
    assert server.swap_uri(f"{digits_dir}/../../etc/passwd").status_code == 403
    assert server.swap_uri("http://127.0.0.1/v2.safetensors").status_code == 403
    assert server.swap_uri(str(digits_dir / "v2.safetensors"), sha256="0" * 64).status_code == 400
    assert server.swap_uri(str(digits_dir / "v2.safetensors"), url="misspelt").status_code == 400
    untyped = server.http.post("/v2/models/digits/weights", content=b"bytes", headers=server.admin)
    assert untyped.status_code == 400
    assert "Content-Type" in untyped.json()["error"]
    assert server.swap(b"", label="\x1b[2J").status_code == 400
    check_unchanged(server, before, images)


def test_a_killed_replica_fails_no_request_and_its_successor_is_current(
    server: Server, eager: Eager, images: Images
) -> None:
    assert server.swap(eager.files["v2"]).status_code == 200
    before = server.status()
    killed = before["replicas"][0]
    os.kill(killed["pid"], signal.SIGKILL)
    want = eager.logits("v2", images[:4])

    def is_replaced() -> bool:
        version, logits = server.infer(images[:4], binary=True)
        assert version == before["current"]["number"]
        np.testing.assert_allclose(logits, want, atol=1e-4)
        names = {receipt["replica"] for receipt in server.status()["replicas"]}
        return len(names) == 2 and killed["replica"] not in names

    until(is_replaced, START_S)
    assert {receipt["version"] for receipt in server.status()["replicas"]} == {before["current"]["number"]}
    assert server.swap(eager.files["v1"]).status_code == 200


def test_a_killed_coordinator_comes_back_with_what_was_committed(server: Server, eager: Eager, images: Images) -> None:
    before = server.status()
    (coordinator,) = [
        process for process in server.launched.family() if "digits-coordinator" in " ".join(process.cmdline())
    ]
    coordinator.kill()

    def is_back() -> bool:
        assert server.infer(images[:1])[0] == before["current"]["number"]
        return server.http.get("/v2/models/digits/weights", headers=server.admin).status_code == 200

    until(is_back, START_S)
    assert server.status()["current"] == before["current"]
    response = server.swap(eager.files["v2"])
    assert response.status_code == 200
    assert len(response.json()["replicas"]) == 2
    assert server.infer(images[:1])[0] == before["current"]["number"] + 1


def test_the_command_line_swaps_shows_and_rolls_back(server: Server, digits_dir: Path) -> None:
    def run(*arguments: str) -> Any:
        command = [PROGRAM, *arguments, "--url", server.url, "--json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    (before,) = run("status", "digits")
    label = "[red]x[/]"  # markup to nobody
    swapped = run("swap", "digits", str(digits_dir / "v2.safetensors"), "--label", label)
    assert swapped["current"]["label"] == label
    for command in (["status"], ["weights", "digits"]):
        shown = subprocess.run([PROGRAM, *command, "--url", server.url], capture_output=True, text=True, check=True)
        assert label in shown.stdout
    assert len(swapped["replicas"]) == 2
    rolled_back = run("rollback", "digits")
    assert rolled_back["current"]["number"] == before["current"]["number"]
    assert rolled_back["epoch"] == before["epoch"] + 2
    status, _ = run("status")
    assert status["current"] == rolled_back["current"]
    listed = run("weights", "digits")
    assert swapped["current"] in [{key: each[key] for key in each if key != "disk"} for each in listed]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["swap", "digits", "nowhere.safetensors"], "nowhere.safetensors", id="no file"),
        pytest.param(["status", "other"], "'other' is not served", id="no model"),
        pytest.param(["rollback", "digits", "--to", "99999"], "99999 is not stored", id="no version"),
    ],
)
def test_the_command_line_says_what_is_wrong(server: Server, arguments: list[str], says: str) -> None:
    command = [PROGRAM, *arguments, "--url", server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
