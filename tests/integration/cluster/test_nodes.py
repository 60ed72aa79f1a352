"""Weights on their way to several nodes: one reader per node, and no node that stops the others."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from aoti_serve.cluster.transfer.download import ChunkSource
from aoti_serve.errors import Unavailable
from aoti_serve.weights.version import Version
from tests.integration.cluster.readers import (
    CHUNKS,
    CountingTransfer,
    LockstepTransfer,
    cluster_processes,
    eventually,
    got,
    read_again,
    reader_on,
    stopped,
    stored_version,
)

MEMORY = 100 * 2**20
NODES = 3


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[str]]:
    """The ids of the nodes, of which the first is this process' own."""
    api: Any = ray
    cluster: Any = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False},
    )
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    ray.init(address=cluster.address, log_to_driver=False)
    own = ray.get_runtime_context().get_node_id()
    try:
        yield sorted((node["NodeID"] for node in api.nodes()), key=lambda node: node != own)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Version]:
    return stored_version(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def transfer(nodes: list[str]) -> Iterator[Any]:
    made = CountingTransfer.here(2**40)
    yield made
    ray.kill(made)


@pytest.fixture
def source(transfer: Any, stored: tuple[Path, Version]) -> ChunkSource:
    return ChunkSource(transfer, stored[0])


def test_the_replicas_of_a_node_share_its_calls(
    nodes: list[str], source: ChunkSource, stored: tuple[Path, Version]
) -> None:
    """Counted when all processes run. One that comes late reads by itself, so a few chunks are asked for again."""
    version = stored[1]
    readers = {f"{node}-{turn}": reader_on(node) for node in nodes for turn in range(3)}
    transfer: Any = source.transfer
    got([transfer.reader_of.remote(node, name) for node in nodes for name in readers if node in name])

    def read() -> Counter[tuple[str, int]]:
        calls = [reader.read.remote(source, name, version) for name, reader in readers.items()]
        assert got(calls) == [version.nbytes] * len(readers)
        return Counter(got(transfer.calls.remote()))

    before = read()
    asked = read() - before
    chunks = {(node, number) for node in nodes for number in range(CHUNKS)}
    assert chunks <= set(asked)
    assert sum(asked[chunk] for chunk in chunks) < len(readers) * CHUNKS / 2, "each replica alone would ask for all"


def test_a_replica_alone_on_its_node_needs_no_other_process(
    nodes: list[str], source: ChunkSource, stored: tuple[Path, Version]
) -> None:
    version, transfer = stored[1], source.transfer
    assert got(reader_on(nodes[1]).read.remote(source, "alone", version)) == version.nbytes
    assert got(transfer.calls.remote()) == {(f"{nodes[1]} alone", number): 1 for number in range(CHUNKS + 1)}
    assert got(transfer.received.remote(source.path)) == {"alone": version.nbytes}
    assert cluster_processes("ray::NodeTransfer") == []


def test_the_root_knows_how_much_each_replica_has(
    nodes: list[str], source: ChunkSource, stored: tuple[Path, Version]
) -> None:
    version, transfer = stored[1], source.transfer
    held, other = reader_on(nodes[1]), reader_on(nodes[1])
    call = held.read.remote(source, "held", version, pause_before=4)
    got(held.paused.remote())
    read = got(transfer.received.remote(source.path))
    assert 0 < read["held"] < version.nbytes
    got(held.go_on.remote())
    assert got([call, other.read.remote(source, "other", version)]) == [version.nbytes] * 2
    eventually(lambda: got(transfer.received.remote(source.path)), {"held": version.nbytes, "other": version.nbytes})


@pytest.mark.skipif(shutil.which("ss") is None, reason="the bytes of connections are counted with ss")
def test_nodes_that_have_a_chunk_pass_it_on(nodes: list[str], stored: tuple[Path, Version]) -> None:
    """Also if they are ready for it at the same moment."""
    path, version = stored
    source = ChunkSource(LockstepTransfer.here(2**40), path)
    before = bytes_sent()
    readers = [reader_on(node) for node in nodes[1:]]
    got([reader.read.remote(source, f"r{turn}", version) for turn, reader in enumerate(readers)])
    sent = sorted((after - before.get(pid, 0) for pid, after in bytes_sent().items()), reverse=True)
    assert sum(sent) > 2 * version.nbytes
    assert sent[0] < 1.85 * version.nbytes, "the first node has not sent everything to everybody"
    assert sent[1] > 0.15 * version.nbytes, "another one has passed chunks on"


def bytes_sent() -> dict[str, int]:
    """How much each raylet has sent over its connections, by process id."""
    listed = subprocess.run(["ss", "-tinpHO", "state", "established"], capture_output=True, text=True, check=True)
    raylets = {str(process.pid) for process in cluster_processes("raylet/raylet")}
    sent: dict[str, int] = {}
    for line in listed.stdout.splitlines():
        process, count = re.search(r'"raylet",pid=(\d+)', line), re.search(r"bytes_sent:(\d+)", line)
        if process and count and process[1] in raylets:
            sent[process[1]] = sent.get(process[1], 0) + int(count[1])
    return sent


def test_a_replica_that_is_stopped_holds_nobody_up_and_reads_on_later(
    nodes: list[str], source: ChunkSource, stored: tuple[Path, Version]
) -> None:
    version = stored[1]
    frozen, neighbour, elsewhere = reader_on(nodes[1]), reader_on(nodes[1]), reader_on(nodes[2])
    late = frozen.read.remote(source, "frozen", version, pause_before=2)
    got(frozen.paused.remote())
    pid = got(frozen.pid.remote())
    with stopped(pid):
        others = [
            reader.read.remote(source, name, version) for name, reader in {"n": neighbour, "e": elsewhere}.items()
        ]
        assert got(others) == [version.nbytes] * 2
    got(frozen.go_on.remote())
    assert got(late) == version.nbytes


def test_a_replica_that_dies_holds_nobody_up(
    nodes: list[str], source: ChunkSource, stored: tuple[Path, Version]
) -> None:
    version = stored[1]
    doomed, neighbour, elsewhere = reader_on(nodes[1]), reader_on(nodes[1]), reader_on(nodes[2])
    lost = doomed.read.remote(source, "doomed", version, pause_before=2)
    got(doomed.paused.remote())
    others = [reader.read.remote(source, str(reader), version) for reader in (neighbour, elsewhere)]
    psutil.Process(got(doomed.pid.remote())).kill()
    assert got(others) == [version.nbytes] * 2
    with pytest.raises(ray.exceptions.RayActorError):
        got(lost)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_node_whose_transfer_is_lost_holds_nobody_up_and_can_read_again(
    nodes: list[str], source: ChunkSource, stored: tuple[Path, Version], how: str
) -> None:
    """A read that is under way fails, unless Ray has started the process again before it asks for more."""
    version = stored[1]
    cut_off, elsewhere = reader_on(nodes[1]), reader_on(nodes[2])
    transfer: Any = source.transfer
    got(transfer.reader_of.remote(nodes[1], "neighbour"))
    failing = cut_off.read.remote(source, "cut off", version, pause_before=2)
    got(cut_off.paused.remote())
    (process,) = cluster_processes("ray::NodeTransfer")
    other = elsewhere.read.remote(source, "elsewhere", version)
    if how == "killed":
        process.kill()
    else:
        process.suspend()
    assert got(other) == version.nbytes
    got(cut_off.go_on.remote())
    with suppress(Unavailable):
        assert got(failing) == version.nbytes
    assert read_again(cut_off, source, "cut off", version) == version.nbytes


def test_when_the_root_dies_all_fail_and_can_read_again(
    nodes: list[str], source: ChunkSource, stored: tuple[Path, Version]
) -> None:
    version, transfer = stored[1], source.transfer
    readers = [reader_on(node) for node in (*nodes, *nodes)]
    failing = [reader.read.remote(source, str(turn), version, pause_before=2) for turn, reader in enumerate(readers)]
    got([reader.paused.remote() for reader in readers])
    psutil.Process(got(transfer.pid.remote())).kill()
    got([reader.go_on.remote() for reader in readers])
    for call in failing:
        with pytest.raises(Unavailable):
            got(call)
    for turn, reader in enumerate(readers):
        assert read_again(reader, source, str(turn), version) == version.nbytes
