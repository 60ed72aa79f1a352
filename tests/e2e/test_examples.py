"""The examples, by the commands of their pages, against real servers: what they print is what their pages claim.

One server answers for all but one; `several_models` starts its own, as each does that a reader runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import online_learning
import precision
import pytest
import recommender
import self_aborting_canary
import serving
import several_models
import yaml

from aoti_serve.demo import digits
from tests.e2e.reader import assert_prints
from tests.e2e.served import ROOT, Launched, free_port
from tests.package_cache import PackageCache
from tests.pages import blocks_of, commands_of

MADE: dict[str, Callable[[Path], None]] = {
    "online_learning": online_learning.make,
    "precision": precision.make,
    "recommender": recommender.make,
    "self_aborting_canary": self_aborting_canary.make,
    "several_models": several_models.make,
}
SHARED = [name for name in MADE if name != "several_models"]
PATHS = {"PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])}


def command_of(name: str) -> str:
    """The command of the example's page."""
    [command] = commands_of(f"docs/tutorial/example-{name.replace('_', '-')}.md")
    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, package_cache: PackageCache) -> Path:
    """Where commands run: a repository whose packages are compiled."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(ROOT / "examples", folder / "examples")
    for name, make in MADE.items():
        sources = [ROOT / "examples" / name / f"{name}.py", Path(digits.__file__), Path(serving.__file__)]
        made = package_cache.entry(name, make, *sources)
        shutil.copytree(made, folder / "var" / "examples" / name)
    return folder


@pytest.fixture(scope="module")
def joined(folder: Path) -> Iterator[dict[str, str]]:
    """A server of all configurations but one; the variables with which a program asks it, and joins its cluster."""
    config = folder / "all.yaml"
    config.write_text(yaml.safe_dump(merged([folder / f"examples/{name}/{name}.yaml" for name in SHARED])))
    port = free_port()
    flags = {"--port": port, "--metrics-port": free_port()}
    words = [str(word) for flag in flags.items() for word in flag]
    launched = Launched(["aoti-serve", "up", str(config), *words], folder, PATHS | {"COLUMNS": "200"})
    try:
        launched.wait_for("ready")
        launched.wait_for("RAY_ADDRESS=")
        variables = dict(re.findall(r"(RAY_\w+)=(\S+)", launched.output))
        yield variables | {"AOTI_SERVE_URL": f"http://127.0.0.1:{port}"}
    finally:
        launched.stop()


def merged(configs: Sequence[Path]) -> Any:
    """One configuration with the models of all, which take no core of Ray's."""
    found = [yaml.safe_load(path.read_text())["applications"][0] for path in configs]
    models = [model for application in found for model in application["args"]["models"]]
    cores = [{"name": f"{model['name']}-replica", "ray_actor_options": {"num_cpus": 0}} for model in models]
    args = {"models": models, "gateway": {"grpc_port": None}}
    return {"applications": [found[0] | {"args": args, "deployments": cores}]}


def printed(name: str, folder: Path, variables: dict[str, str]) -> str:
    """What the page's command says."""
    return run(command_of(name), folder, variables)


def run(command: str, folder: Path, variables: dict[str, str]) -> str:
    environment = os.environ | variables | {"COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def rose(low: float, high: float) -> bool:
    """From an accuracy, in percent, that is useless to one that is not."""
    return low < 60 and high > 80


def test_the_accuracy_rises_while_a_model_learns(folder: Path, joined: dict[str, str]) -> None:
    said = printed("online_learning", folder, joined)
    seen = [(int(version), float(right)) for version, right in re.findall(r"version (\d+): +([\d.]+)% of 360", said)]
    versions = [version for version, _ in seen]
    assert versions == sorted(set(versions)), said
    assert versions[-1] == 1 + online_learning.PUSHES, said
    assert len(versions) > 3, said
    assert rose(seen[0][1], seen[-1][1]), said


def test_only_rows_that_were_touched_are_pushed(folder: Path, joined: dict[str, str]) -> None:
    said = printed("recommender", folder, joined)
    found = re.findall(r"version (\d+): [\d,]+ rows, [\d.]+ MB, ([\d.]+)% of the whole.*within (\S+)\n", said)
    assert [int(version) for version, _, _ in found] == list(range(3, 3 + recommender.PUSHES)), said
    assert all(float(share) < 3 for _, share, _ in found), said
    assert all(float(error) < 1e-5 for _, _, error in found), said
    [listed] = [block.text for block in blocks_of("docs/guides/disk.md") if "push 0" in block.text]
    differs = r"\b[0-9a-f]{12}\b|\d+ (?:s|min)\b"
    assert_prints(re.sub(differs, "...", listed), run("aoti-serve weights recommender", folder, joined))


def test_a_bad_version_withdraws_itself(folder: Path, joined: dict[str, str]) -> None:
    said = printed("self_aborting_canary", folder, joined)
    assert re.search(r"^rollout aborted, in step \d: top1_agreement: ", said, re.MULTILINE), said
    rights = {int(a): (int(b), float(c)) for a, b, c in re.findall(r"version (\d+): (\d+) answers, ([\d.]+)% of", said)}
    (good, good_right), (bad, bad_right) = rights[1], rights[2]
    assert bad < good, said
    assert rose(bad_right, good_right), said
    assert said.endswith("version 1 answers\n"), said


def test_precision_is_paid_with_accuracy_and_buys_memory(folder: Path, joined: dict[str, str]) -> None:
    said = printed("precision", folder, joined)
    rows = re.findall(r"(\w+) +│ +([\d.]+) +│ +([\d.]+)% +│ +([\d.]+) ", said)
    assert [name for name, *_ in rows] == list(precision.MODELS), said
    size = {name: float(megabytes) for name, megabytes, _, _ in rows}
    error = {name: float(percent) for name, _, percent, _ in rows}
    assert size["bfloat16"] / size["float32"] == pytest.approx(0.5, abs=0.1), said
    assert size["int8"] / size["float32"] == pytest.approx(0.25, abs=0.1), said
    assert error["float32"] <= 0.01, said
    assert 0.01 < max(error["bfloat16"], error["int8"]) < 10, said
    assert all(float(took) > 0 for *_, took in rows), said


def test_models_behind_one_gateway_change_one_by_one(folder: Path) -> None:
    """It starts its own server, at other ports, and leaves no process behind."""
    config = folder / "examples/several_models/several_models.yaml"
    ports = {"8000": str(free_port()), "8001": str(free_port())}
    config.write_text(re.sub(r"\b800[01]\b", lambda found: ports[found[0]], config.read_text()))
    said = printed("several_models", folder, {})
    readers = re.findall(r"reader version (\d): +([\d.]+)%", said)
    guards = re.findall(r"guard version (\d): surprise ([\d.]+) at digits, ([\d.]+) or more", said)
    assert [version for version, _ in readers] == ["1", "2"], said
    assert rose(*(float(right) for _, right in readers)), said
    assert len(guards) == 2, said
    assert guards[0] == guards[1], said
    assert float(guards[0][2]) > 2 * float(guards[0][1]), said
