"""What else can be asked of a swap, and where it can be seen."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from aoti_serve import ElementChanges, save_delta
from aoti_serve.demo import digits
from tests.e2e.served import PROGRAM, START_S, Eager, Server
from tests.e2e.wire import Wire, until

Images = NDArray[np.float32]


def biased(content: bytes, by: float) -> bytes:
    """Only the last bias, raised by as much."""
    return save({"classify.bias": load(content)["classify.bias"] + by})


def test_a_partial_swap_changes_what_it_names_and_stores_a_whole_version(
    server: Server, eager: Eager, images: Images
) -> None:
    assert server.swap(eager.files["v2"]).status_code == 200
    base = server.status()["current"]
    response = server.swap(biased(eager.files["v2"], 1.0), partial=True, base_version=base["number"], label="raised")
    assert response.status_code == 200, response.text
    current = response.json()["current"]
    assert (current["parent"], current["tensors"]) == (base["number"], base["tensors"])
    version, logits = server.infer(images[:4])
    assert version == current["number"]
    np.testing.assert_allclose(logits, eager.logits("v2", images[:4]) + 1, atol=1e-4)
    assert server.rollback().status_code == 200
    assert server.rollback(version=version).status_code == 200
    np.testing.assert_allclose(server.infer(images[:4])[1], eager.logits("v2", images[:4]) + 1, atol=1e-4)


@pytest.mark.parametrize(
    ("base", "status", "says"),
    [
        pytest.param({"base_version": 1_000_000}, 409, "base_version 1000000", id="another base"),
        pytest.param({}, 400, "base_version", id="no base"),
        pytest.param({"base_version": "one"}, 400, "base_version", id="no number"),
    ],
)
def test_a_partial_swap_needs_the_right_base(
    server: Server, eager: Eager, base: dict[str, Any], status: int, says: str
) -> None:
    before = server.status()
    response = server.swap(biased(eager.files["v2"], 1.0), partial=True, **base)
    assert response.status_code == status
    assert says in response.json()["error"]
    assert server.status()["current"] == before["current"]


def test_a_delta_changes_the_elements_that_it_names_and_no_other_base_than_its_own(
    server: Server, eager: Eager, images: Images, tmp_path: Path
) -> None:
    base = server.swap(eager.files["v2"]).json()["current"]
    raised = load(eager.files["v2"])["classify.bias"][[2, 7]] + 1
    changes = {"classify.bias": ElementChanges(torch.tensor([2, 7]), raised)}
    save_delta(changes, tmp_path / "raised", base["digest"])
    command = [PROGRAM, "swap", "digits", str(tmp_path / "raised"), "--delta", "--url", server.url]
    subprocess.run(command, capture_output=True, text=True, check=True)
    current = server.status()["current"]
    assert (current["parent"], current["tensors"], current["label"]) == (base["number"], base["tensors"], "raised")
    expected = eager.logits("v2", images[:4])
    expected[:, [2, 7]] += 1
    np.testing.assert_allclose(server.infer(images[:4])[1], expected, atol=1e-4)
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, "the delta was made from weights with sha256" in refused.stderr) == (1, True)
    assert server.status()["current"] == current


def test_a_checkpoint_in_shards_becomes_one_file(server: Server, eager: Eager, images: Images, tmp_path: Path) -> None:
    state = load(eager.files["v1"])
    shard_of = {name: f"model-{at % 3}.safetensors" for at, name in enumerate(sorted(state))}
    for shard in set(shard_of.values()):
        (tmp_path / shard).write_bytes(save({name: state[name] for name in state if shard_of[name] == shard}))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    command = [PROGRAM, "swap", "digits", str(tmp_path), "--label", "shards", "--url", server.url]
    subprocess.run(command, capture_output=True, text=True, check=True)
    current = server.status()["current"]
    assert (current["label"], current["tensors"]) == ("shards", len(state))
    np.testing.assert_allclose(server.infer(images[:4])[1], eager.logits("v1", images[:4]), atol=1e-4)


RANK, ALPHA = 2, 3
SETTINGS = json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"})


def adapter_of(seed: int) -> dict[str, torch.Tensor]:
    """Of the linear layer and of a convolution."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {
        "classify.lora_A": (RANK, 512),
        "classify.lora_B": (10, RANK),
        "features.3.lora_A": (RANK, 16, 3, 3),
        "features.3.lora_B": (32, RANK, 1, 1),
    }
    return {f"base_model.model.{name}.weight": torch.randn(shape, generator=rng) / 4 for name, shape in shapes.items()}


def merged_logits(content: bytes, adapter: dict[str, torch.Tensor], images: Images) -> Images:
    """Those of eager PyTorch with W + alpha / rank x B A."""
    net = digits.DigitsNet().eval()
    state = load(content)
    for module in ("classify", "features.3"):
        a, b = (adapter[f"base_model.model.{module}.lora_{factor}.weight"].flatten(1) for factor in "AB")
        state[f"{module}.weight"] += (b @ a).view_as(state[f"{module}.weight"]) * ALPHA / RANK
    net.load_state_dict(state, strict=False)
    with torch.no_grad():
        found: Images = net(torch.from_numpy(images))["logits"].numpy()
    return found


def test_adapters_are_merged_into_the_plain_base_and_a_plain_swap_is_plain_again(
    server: Server, eager: Eager, images: Images, tmp_path: Path
) -> None:
    base = server.swap(eager.files["v2"]).json()["current"]["number"]
    first, second = adapter_of(1), adapter_of(2)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "adapter_model.safetensors").write_bytes(save(first))
    (tmp_path / "tuned" / "adapter_config.json").write_text(SETTINGS)
    command = [PROGRAM, "swap", "digits", str(tmp_path / "tuned"), "--adapter", "--url", server.url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    current = server.status()["current"]
    assert f"answers with version {current['number']} (tuned, adapter on {base})" in shown
    assert current["adapter"] == {"base": base, "digest": hashlib.sha256(save(first)).hexdigest()}
    version, logits = server.infer(images[:4])
    assert version == current["number"]
    np.testing.assert_allclose(logits, merged_logits(eager.files["v2"], first, images[:4]), atol=1e-3)
    response = server.swap(save(second), adapter=True, adapter_config=SETTINGS)
    assert response.json()["current"]["adapter"]["base"] == base, response.text
    expected = merged_logits(eager.files["v2"], second, images[:4])
    np.testing.assert_allclose(server.infer(images[:4])[1], expected, atol=1e-3)
    assert lines_of(server.store / "audit.jsonl")[-1]["adapter"]["base"] == base
    assert server.swap(eager.files["v2"]).json()["current"]["adapter"] is None
    np.testing.assert_allclose(server.infer(images[:4])[1], eager.logits("v2", images[:4]), atol=1e-4)
    assert server.rollback().json()["current"]["adapter"]["base"] == base
    np.testing.assert_allclose(server.infer(images[:4])[1], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({}, "adapter_config.json: it did not come with the upload", id="no settings"),
        pytest.param({"adapter_config": SETTINGS.replace("LORA", "IA3")}, "peft_type 'IA3'", id="another kind"),
        pytest.param(
            {"adapter_config": SETTINGS.replace('"r": 2', '"r": 4')}, "its rank is 2", id="another's settings"
        ),
    ],
)
def test_an_adapter_that_cannot_be_merged_changes_nothing(server: Server, options: dict[str, str], says: str) -> None:
    before = server.status()["current"]
    response = server.swap(save(adapter_of(1)), adapter=True, **options)
    assert response.status_code == 400
    assert says in response.json()["error"]
    assert server.status()["current"] == before


def test_a_swap_that_nobody_waits_for_tells_its_outcome_later(server: Server, eager: Eager) -> None:
    response = server.swap(eager.files["v1"], wait=False, label="later")
    assert response.status_code == 202
    asked = response.json()["swap"]["id"]
    last = next(status["last"] for status in server.events() if status["last"] and status["last"]["id"] == asked)
    assert (last["outcome"], last["error"]) == ("committed", None)
    assert set(last["phases"]) == {"checking", "staging", "committing"}
    assert server.status()["current"]["label"] == "later"
    failed = server.swap(eager.files["v1"][:-10], wait=False).json()["swap"]["id"]
    last = next(status["last"] for status in server.events() if status["last"] and status["last"]["id"] == failed)
    assert last["outcome"] == "failed"
    assert "safetensors" in last["error"]


def test_the_events_show_every_replica_through_the_phases(server: Server, eager: Eager) -> None:
    events = server.events()
    next(events)
    asked = server.swap(eager.files["v2"], wait=False).json()["swap"]["id"]
    seen: set[tuple[str, str]] = set()
    for status in events:
        if status["swap"]:
            seen |= {(status["swap"]["phase"], entry["replica"]) for entry in status["swap"]["replicas"]}
        if status["last"] and status["last"]["id"] == asked:
            break
    replicas = {receipt["replica"] for receipt in status["replicas"]}
    assert len(replicas) == 2
    assert {("staging", replica) for replica in replicas} <= seen


def test_receipts_say_what_arrived_where_and_what_is_behind_it(server: Server, eager: Eager) -> None:
    before = server.status()["current"]
    current = server.swap(eager.files["v1"]).json()
    for receipt in current["replicas"]:
        assert (receipt["version"], receipt["digest"]) == (current["current"]["number"], current["current"]["digest"])
        assert receipt["previous"] == before["number"]
        assert receipt["stage_milliseconds"] > 0
        assert receipt["nbytes"] == current["current"]["nbytes"]
    for receipt in server.rollback().json()["replicas"]:
        assert (receipt["stage_milliseconds"], receipt["nbytes"]) == (0, 0), "it was resident: no data moves"


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_attempt_is_in_the_audit_log(server: Server, eager: Eager) -> None:
    done = server.swap(eager.files["v2"], label="audited").json()
    server.swap(b"nonsense", label="broken")
    server.http.post("/v2/models/digits/weights", content=b"", headers={"Authorization": "Bearer wrong"})
    refused = server.store / "refused.jsonl"
    until(lambda: bool(lines_of(refused)))
    assert "127.0.0.1" in lines_of(refused)[-1]["who"]
    _, committed, begun, failed = lines_of(server.store / "audit.jsonl")[-4:]
    assert (begun["outcome"], begun["id"]) == ("begun", failed["id"])
    assert (committed["action"], committed["outcome"], committed["label"]) == ("swap", "committed", "audited")
    assert (committed["version"], committed["digest"]) == (done["current"]["number"], done["current"]["digest"])
    assert (failed["outcome"], failed["label"]) == ("failed", "broken")
    assert "UnreadableWeights" in failed["error"]
    assert "127.0.0.1" in committed["who"]
    assert "the-token" not in (server.store / "audit.jsonl").read_text() + refused.read_text()


def test_an_upload_that_breaks_off_is_in_the_audit_log_and_in_the_status(server: Server, eager: Eager) -> None:
    head = [
        "POST /v2/models/digits/weights?label=half HTTP/1.1",
        "Host: here",
        *[f"{name}: {value}" for name, value in server.admin.items()],
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(eager.files['v1'])}",
    ]
    with Wire(server.port) as wire:
        wire.send("\r\n".join([*head, "", ""]).encode() + eager.files["v1"][:1000])
    lasts = (status["last"] for status in server.events() if status["last"])
    assert next(last for last in lasts if "upload" in (last["error"] or ""))["outcome"] == "failed"
    line = lines_of(server.store / "audit.jsonl")[-1]
    assert (line["outcome"], line["label"], line["source"]) == ("failed", "half", "upload")
    assert "127.0.0.1" in line["who"]


def test_prometheus_sees_the_version_and_the_swaps(server: Server, eager: Eager) -> None:
    (url,) = re.findall(r"metrics for Prometheus: (\S+)", server.launched.output)
    number = server.swap(eager.files["v1"]).json()["current"]["number"]

    def shown(name: str, **tags: str) -> set[float]:
        lines = [line for line in httpx.get(url, trust_env=False).text.splitlines() if line.startswith(f"ray_{name}{{")]
        tagged = [line for line in lines if all(f'{tag}="{value}"' in line for tag, value in tags.items())]
        return {float(line.rpartition(" ")[2]) for line in tagged}

    until(lambda: shown("aoti_serve_weights_version", model="digits") == {number}, START_S)
    assert shown("aoti_serve_replicas", model="digits") == {2}
    assert shown("aoti_serve_swaps_total", model="digits", action="swap", outcome="committed")
    assert shown("aoti_serve_swap_phase_seconds_count", model="digits", phase="staging")
    assert shown("aoti_serve_swap_seconds_count", model="digits", action="swap")
    assert shown("aoti_serve_swap_bytes_total", model="digits")
