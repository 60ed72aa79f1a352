"""What we borrow from Ray's private parts, in the version that it was read in.

If one of these tests fails, read the function again, and what `aoti_serve/cluster/ray_private.py` says of it; then note
the new digest.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from ray._private import state
from ray.serve import context
from ray.serve._private.client import ServeControllerClient
from ray.serve._private.controller import ServeController
from ray.serve.handle import DeploymentHandle

import aoti_serve

READ_IN = "2.60.0"
LEANED_ON = {
    state.actors: "96a84dd8aeb2",
    state.GlobalState.actor_table: "1dd58a9491c0",
    context._get_global_client: "05c384b8b49b",
    ServeControllerClient.deploy_apps: "1184c07384d7",
    ServeControllerClient.delete_apps: "9379ed771b43",
    ServeControllerClient.get_serve_details: "9b1112280cd5",
    ServeController.get_app_configs: "1ee4eb65e62e",
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


def private(source: str) -> list[str]:
    """What is imported of Ray that its authors call private."""
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray")
        for alias in node.names
        if any(part.startswith("_") for part in f"{node.module}.{alias.name}".split("."))
    ]


def test_it_is_borrowed_in_one_file() -> None:
    found = {path.relative_to(ROOT).as_posix(): private(path.read_text()) for path in ROOT.rglob("*.py")}
    assert {path for path, names in found.items() if names} == {THE_FILE}
