"""What we borrow from Ray's private parts, in the version that it was read in.

If one of these tests fails, read the function again, and what `aoti_serve/cluster/ray_private.py` says of it; then note
the new digest.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from ray._private import state
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray._private.ray_logging import stdout_deduplicator
from ray._private.utils import get_num_cpus
from ray.serve import context
from ray.serve._private.client import ServeControllerClient
from ray.serve._private.controller import ServeController
from ray.serve.handle import DeploymentHandle

import aoti_serve
from aoti_serve.cluster.ray_private import silence_raylets
from tests.unit.source import parsed

READ_IN = "2.60.0"
LEANED_ON = {
    state.actors: "96a84dd8aeb2",
    state.GlobalState.actor_table: "1dd58a9491c0",
    context._get_global_client: "05c384b8b49b",
    ServeControllerClient.deploy_apps: "1184c07384d7",
    ServeControllerClient.delete_apps: "9379ed771b43",
    ServeControllerClient.get_serve_details: "9b1112280cd5",
    ServeController.get_app_configs: "1ee4eb65e62e",
    DeploymentHandle._init: "89e71f5aff69",
    get_num_cpus: "f48859b5633b",
    NvidiaGPUAcceleratorManager.get_current_node_num_accelerators: "9b1f6817e77a",
}
ROOT = Path(aoti_serve.__file__).parent
THE_FILE = "cluster/ray_private.py"


def digest(source: Any) -> str:
    return hashlib.sha256(inspect.getsource(source).encode()).hexdigest()[:12]


@pytest.mark.parametrize(("source", "noted"), LEANED_ON.items(), ids=lambda value: getattr(value, "__qualname__", ""))
def test_ray_does_what_it_did_when_it_was_read(source: Any, noted: str) -> None:
    assert digest(source) == noted, f"read it again; it was read in {READ_IN}"


def test_a_handle_takes_the_way_of_its_calls() -> None:
    assert "_by_reference" in inspect.signature(DeploymentHandle.options).parameters


def test_what_raylets_tell_can_be_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdout_deduplicator, "skip_re", None)
    told = {"lines": ["A worker died\nor was killed"], "pid": "raylet", "is_err": False}
    assert [batch["lines"] for batch in stdout_deduplicator.deduplicate(told)] == [told["lines"]]
    silence_raylets()
    assert [batch["lines"] for batch in stdout_deduplicator.deduplicate(told)] == [[]]


def private(source: str) -> list[str]:
    """What is imported of Ray that its authors call private."""
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray")
        for alias in node.names
        if any(part.startswith("_") for part in f"{node.module}.{alias.name}".split("."))
    ]


SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}


def test_it_is_borrowed_in_one_file() -> None:
    assert {path for path, source in SOURCES.items() if private(source)} == {THE_FILE}


def attributes(ctx: type[ast.expr_context], source: str) -> set[str]:
    """The attributes that are read, or set, and whose names begin with one underscore."""
    nodes = [node for node in ast.walk(parsed(source)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.ctx, ctx) and re.match("_[^_]", node.attr)}


def own(source: str) -> set[str]:
    """The names that a file defines: functions, classes, fields, slots and attributes."""
    tree = list(ast.walk(parsed(source)))
    named = {node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    fields = {node.target.id for node in tree if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    slots = {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return named | fields | slots | attributes(ast.Store, source)


def test_private_attributes_of_others_are_used_where_they_are_borrowed() -> None:
    ours = set[str]().union(*map(own, SOURCES.values())) | {
        "_asdict",
        "_exit",
        "_current_frames",
    }  # public, in spite of their names
    foreign = {path: attributes(ast.Load, source) - ours for path, source in SOURCES.items()}
    rooms = (THE_FILE, "signature/torch_private.py", "model/aoti/")
    assert {path: names for path, names in foreign.items() if names and not path.startswith(rooms)} == {}
