"""What `import aoti_serve` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import aoti_serve

MEMBERS = [
    "AotiServeError",
    "AsyncWeightsClient",
    "Container",
    "ElementChanges",
    "GoldenRequest",
    "Package",
    "RolloutPlan",
    "RowChanges",
    "WeightsClient",
    "export_package",
    "make_delta",
    "save_delta",
    "save_golden",
]


def test_the_members_are_exactly_these() -> None:
    assert aoti_serve.__all__ == MEMBERS


def test_a_notebook_completes_them() -> None:
    assert {*MEMBERS, "__version__"} <= {*dir(aoti_serve)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own modules raise some when they are imported
@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in MEMBERS])
def test_a_member_can_be_imported(name: str) -> None:
    member = getattr(aoti_serve, name)
    assert member.__name__ == name
    assert member.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Contaner'"):
        aoti_serve.Contaner  # noqa: B018


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        pytest.param("aoti_serve", {"torch", "ray", "numpy"}, id="package-root"),
        pytest.param("aoti_serve.weights.swap.swap", {"torch", "ray"}, id="swap"),
        pytest.param("aoti_serve.model.package", {"torch", "ray"}, id="package"),
        pytest.param("aoti_serve.gateway.batching.batcher", {"torch", "ray"}, id="batcher"),
        pytest.param("aoti_serve.protocol.decode", {"torch", "ray"}, id="decode"),
        pytest.param("aoti_serve.cli", {"torch", "ray"}, id="command-line"),
    ],
)
def test_importing_does_not_wait_for_what_it_does_not_need(module: str, unneeded: set[str]) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not unneeded & set(loaded)
