"""The package has none of protobuf's code, and lives beside it in one process."""

from __future__ import annotations

import subprocess
import sys

import pytest

OURS = "aoti_serve.protocol.grpc.head, aoti_serve.protocol.grpc.messages, aoti_serve.protocol.grpc.response"
THEIRS = "tritonclient.grpc"


def imported(*names: str) -> set[str]:
    script = "import sys\n" + "".join(f"import {name}\n" for name in names) + "print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_nothing_of_protobuf_or_grpc_is_imported() -> None:
    assert not {"google.protobuf", "grpc", "torch", "ray"} & imported(OURS)


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours-first", "theirs-first"])
def test_tritons_client_is_imported_beside_it(order: tuple[str, str]) -> None:
    assert {"google.protobuf", "aoti_serve.protocol.grpc.head"} <= imported(*order)
