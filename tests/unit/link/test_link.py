"""Both ends of a link over real sockets: who gets in, what comes back, and what happens when either end goes."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aoti_serve.address import Address
from aoti_serve.errors import LinkRefused, NoReplica, ReplicaBehind, ReplicaDied, ReplicaFailed
from aoti_serve.link import client, connection, handshake
from aoti_serve.link.client import QUIET, STOPPED, Link
from aoti_serve.link.health.probe import Probe
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.link.pool import LEAVING_TICKS, Pool, Probing
from aoti_serve.link.server import BEAT_S, BatchHandler, LinkServer
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec

NODE, ELSEWHERE = "node", "another node"
X = TensorSpec(name="x", dtype="float32", shape=(Dim(symbol="batch", min=1),))
SIGNATURE = Signature(inputs=(X,), outputs=(X,), constants=())


def rows(*values: float) -> BatchMessage:
    return BatchMessage([np.array(values, np.float32)], fence=0)


async def double(gateway: str, batch: BatchMessage) -> AnswerMessage:
    return AnswerMessage(1, 0, [2 * array for array in batch.arrays])


class Held:
    """A replica that answers when it is told to."""

    def __init__(self) -> None:
        self.running: list[BatchMessage] = []
        self.changed = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, gateway: str, batch: BatchMessage) -> AnswerMessage:
        self.running.append(batch)
        self.changed.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return await double(gateway, batch)

    async def until(self, count: int) -> None:
        while len(self.running) < count:
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def served(
    run: BatchHandler = double, runners: int = 1, name: str = "r1"
) -> AsyncIterator[tuple[LinkServer, Address]]:
    server = LinkServer(run)
    await server.open()
    port = await server.open_to_nodes("127.0.0.1")
    try:
        yield server, Address(name, NODE, server.path, runners, server.key, ("127.0.0.1", port))
    finally:
        server.close()


@asynccontextmanager
async def linked(address: Address, node: str = NODE) -> AsyncIterator[Link]:
    link = await Link("m", address, "g1").connect(node)
    try:
        yield link
    finally:
        link.transport.close()
        await link.closed


@asynccontextmanager
async def pooled(*addresses: Address) -> AsyncIterator[Pool]:
    pool = Pool("m", "g1", NODE, changed=lambda: None)
    pool.follow(addresses)
    try:
        yield pool
    finally:
        pool.close()


@pytest.mark.parametrize("node", [NODE, ELSEWHERE])
async def test_a_batch_is_answered(node: str) -> None:
    async with served() as (_, address), linked(address, node) as link:
        answer = await link.ask(rows(1, 2, 3))
    assert answer.outputs[0].tolist() == [2, 4, 6]
    assert answer.replica == "r1"


@pytest.mark.parametrize("node", [NODE, ELSEWHERE])
async def test_large_and_small_batches_share_a_link_both_ways(node: str) -> None:
    large = BatchMessage([np.arange(2**24, dtype=np.float32)], fence=0)
    async with served() as (_, address), linked(address, node) as link:
        answers = await asyncio.gather(*(link.ask(batch) for batch in [large, rows(1), large, rows(2)]))
    assert [float(answer.outputs[0][-1]) for answer in answers] == [2 * (2**24 - 1), 2, 2 * (2**24 - 1), 4]


async def test_the_replica_knows_which_gateway_asks() -> None:
    async def who(gateway: str, batch: BatchMessage) -> AnswerMessage:
        return AnswerMessage(1, 0, [np.frombuffer(gateway.encode(), np.uint8)])

    async with served(who) as (_, address), linked(address) as link:
        answer = await link.ask(rows(1))
    assert answer.outputs[0].tobytes() == b"g1"


async def test_errors_come_back_as_themselves() -> None:
    async def behind(gateway: str, batch: BatchMessage) -> AnswerMessage:
        raise ReplicaBehind(model="m", epoch=1, fence=2)

    async with served(behind) as (_, address), linked(address) as link:
        with pytest.raises(ReplicaBehind, match="epoch 1"):
            await link.ask(rows(1))


async def test_a_defect_of_the_replica_comes_back_as_one_and_is_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    async def defect(gateway: str, batch: BatchMessage) -> AnswerMessage:
        raise ZeroDivisionError

    async with served(defect) as (_, address), linked(address) as link:
        with pytest.raises(ReplicaFailed, match="ZeroDivisionError"):
            await link.ask(rows(1))
    assert caplog.messages == ["a batch of gateway g1 failed: ZeroDivisionError()"]


async def test_whoever_does_not_know_the_key_is_refused() -> None:
    async with served() as (_, address):
        with pytest.raises(LinkRefused):
            await Link("m", replace(address, key=bytes(32)), "g1").connect(NODE)


async def test_a_replica_that_does_not_know_its_key_is_refused(tmp_path: Path) -> None:
    """Whatever an impostor at the replica's address says, it gets no batch."""

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(handshake.greeting())
        await reader.readexactly(handshake.INTRODUCTION.size)
        writer.write(os.urandom(handshake.PROOF))
        assert await reader.read() == b""
        writer.close()

    path = str(tmp_path / "link")
    async with await asyncio.start_unix_server(impostor, path):
        with pytest.raises(LinkRefused, match="own key"):
            await Link("m", Address("r1", NODE, path, 1, bytes(32)), "g1").connect(NODE)


async def test_another_version_of_the_link_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (_, address):
        monkeypatch.setattr(handshake, "greeting", lambda: handshake.GREETING.pack(handshake.MAGIC, 99, bytes(32)))
        with pytest.raises(LinkRefused, match=f"version 99 of the link, this one {handshake.VERSION}"):
            await Link("m", address, "g1").connect(NODE)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(1000)])
async def test_whoever_says_nothing_of_use_is_hung_up_on(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINK_HANDSHAKE_S", 0.05)
    async with served() as (_, address):
        reader, writer = await asyncio.open_unix_connection(address.path)
        await reader.readexactly(handshake.GREETING.size)
        writer.write(said)
        with suppress(ConnectionResetError):  # it had more to say
            assert await reader.read() == b""
        writer.close()


async def test_the_socket_lies_in_a_folder_of_its_user_only_and_goes_with_it() -> None:
    async with served() as (_, address):
        folder = Path(address.path).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


async def test_the_end_of_a_connection_is_the_death_notice() -> None:
    held = Held()
    async with served(held) as (server, address), linked(address) as link:
        answer = asyncio.create_task(link.ask(rows(1)))
        await held.until(1)
        server.close()
        with pytest.raises(ReplicaDied):
            await answer
        assert not link.usable


async def test_a_batch_that_nobody_waits_for_is_cancelled_over_there() -> None:
    held = Held()
    async with served(held) as (server, address), linked(address) as link:
        answer = asyncio.create_task(link.ask(rows(1)))
        await held.until(1)
        answer.cancel()
        await held.cancelled.wait()
        held.go.set()
        assert (await link.ask(rows(3))).outputs[0].tolist() == [6]
        assert server.busy == 0


async def test_what_is_no_batch_ends_its_link_and_keeps_nobody_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (server, address), linked(address) as link:
        monkeypatch.setattr(client, "batch_bytes", lambda _: [b"no batch"])
        with pytest.raises(ReplicaDied):
            await link.ask(rows(1))
        assert server.busy == 0
        assert await server.leave(10)


async def test_batches_of_a_gateway_that_has_gone_are_cancelled() -> None:
    held = Held()
    async with served(held) as (_, address), linked(address) as link:
        answer = asyncio.create_task(link.ask(rows(1)))
        await held.until(1)
        link.transport.abort()
        await held.cancelled.wait()
        with pytest.raises(ReplicaDied):
            await answer


async def test_a_replica_that_has_stopped_is_passed_over_and_then_given_up() -> None:
    held = Held()
    async with served(held) as (_, address), linked(address) as link:
        answer = asyncio.create_task(link.ask(rows(1)))
        await held.until(1)
        for _ in range(QUIET):
            link.tick()
        assert not link.usable
        for _ in range(STOPPED - QUIET):
            link.tick()
        with pytest.raises(ReplicaDied):
            await answer


async def test_a_word_of_the_replica_ends_the_silence() -> None:
    async with served() as (_, address), linked(address) as link:
        for _ in range(QUIET):
            link.tick()
        await link.ask(rows(1))
        assert link.usable


async def test_a_pool_links_to_all_addresses_and_counts_their_runners() -> None:
    async with served(name="r1", runners=2) as (_, one), served(name="r2", runners=3) as (_, two), pooled(one) as pool:
        await until(lambda: pool.runners == 2)
        pool.follow([one, two])
        await until(lambda: pool.runners == 5)


async def test_a_replica_on_another_node_is_reached_once_it_listens_there() -> None:
    async with served() as (_, address), pooled() as pool:
        away = replace(address, node=ELSEWHERE)
        pool.follow([replace(away, tcp=None)])
        pool.follow([away])
        assert (await pool.ask(rows(1))).outputs[0].tolist() == [2]


async def test_batches_go_to_the_replica_with_the_least_to_do() -> None:
    busy, free = Held(), Held()
    async with (
        served(busy, name="r1") as (_, one),
        served(free, name="r2") as (_, two),
        linked(one) as other,
        pooled(one, two) as pool,
    ):
        await until(lambda: pool.runners == 2)
        tasks = [asyncio.create_task(other.ask(rows(0))) for _ in range(3)]
        await busy.until(3)
        tasks += [asyncio.create_task(pool.ask(rows(1))) for _ in range(2)]  # the beat tells of the others' three
        await free.until(1)
        for held in (busy, free):
            held.go.set()
        await asyncio.gather(*tasks)


async def test_an_ask_waits_until_there_is_a_replica() -> None:
    async with pooled() as pool:
        answer = asyncio.create_task(pool.ask(rows(4)))
        async with served() as (_, address):
            pool.follow([address])
            assert (await answer).outputs[0].tolist() == [8]


async def test_a_link_outlives_a_target_that_does_not_name_its_replica() -> None:
    async with served() as (_, address), pooled(address) as pool:
        await pool.ask(rows(1))
        pool.follow([])
        assert (await pool.ask(rows(1))).outputs[0].tolist() == [2]


async def test_a_leaving_replica_gets_nothing_new_while_there_is_another() -> None:
    one, two = Held(), Held()
    async with (
        served(one, name="r1") as (leaving, first),
        served(two, name="r2") as (_, second),
        pooled(first) as pool,
    ):
        before = asyncio.create_task(pool.ask(rows(1)))
        await one.until(1)
        pool.follow([first, second])
        await until(lambda: pool.runners == 2)
        left = asyncio.create_task(leaving.leave(10))
        await until(lambda: pool.runners == 1)
        after = asyncio.create_task(pool.ask(rows(2)))
        await two.until(1)
        assert not left.done(), "something is in hand"
        one.go.set()
        two.go.set()
        assert await left
        assert [(await task).outputs[0].tolist() for task in (before, after)] == [[2], [4]]


async def test_the_last_replica_is_used_for_a_while_after_it_wants_to_leave() -> None:
    async with served() as (server, address), pooled(address) as pool:
        await until(lambda: pool.runners == 1)
        left = asyncio.create_task(server.leave(10))
        assert (await pool.ask(rows(1))).outputs[0].tolist() == [2]
        await left
        assert pool.runners == 0


async def test_a_gateway_that_drains_keeps_the_last_replica() -> None:
    async with served() as (server, address), linked(address) as link:
        pool = Pool("m", "g1", NODE, changed=lambda: None)
        pool.follow([address])
        await until(lambda: pool.runners == 1)
        pool.drain()
        left = asyncio.create_task(server.leave(10))
        await until(lambda: link.leaving > 0)
        for _ in range(2 * LEAVING_TICKS):
            await pool.ask(rows(1))
            pool.pass_time()
        assert pool.runners == 1
        link.let_go()
        pool.close()
        assert await left


async def test_a_replica_of_another_package_gets_no_batch_and_its_predecessor_stays_for_those_who_need_it() -> None:
    one, two = Held(), Held()
    one.go.set()
    async with (
        served(one, name="r1") as (server, old),
        served(two, name="r2") as (_, successor),
        linked(old) as link,
    ):
        pool = Pool("m", "g1", NODE, changed=lambda: None, interface="old")
        pool.follow([replace(old, interface="old"), replace(successor, interface="new")])
        await until(lambda: pool.runners == 1)
        left = asyncio.create_task(server.leave(10))
        await until(lambda: link.leaving > 0)
        for number in range(2 * LEAVING_TICKS):
            assert (await pool.ask(rows(number))).outputs[0].tolist() == [2 * number]
            pool.pass_time()
        assert pool.runners == 1
        assert two.running == []
        link.let_go()
        pool.close()
        assert await left


async def test_batches_that_find_no_replica_wait_together_and_no_longer_than_they_may() -> None:
    pool = Pool("m", "g1", NODE, changed=lambda: None, patience=0.2)
    began = asyncio.get_running_loop().time()
    for _ in range(20):  # as those do that ran with a replica that died
        with pytest.raises(NoReplica, match="model 'm': no replica of it lives; try again in 1 s"):
            await pool.ask(rows(1))
    assert 0.2 <= asyncio.get_running_loop().time() - began < 2 * 0.2
    pool.close()


async def test_a_replica_that_comes_within_the_wait_answers() -> None:
    pool = Pool("m", "g1", NODE, changed=lambda: None, patience=60)
    answer = asyncio.create_task(pool.ask(rows(1)))
    async with served() as (_, address):
        pool.follow([address])
        assert (await answer).outputs[0].tolist() == [2]
        pool.close()


@asynccontextmanager
async def probing(*addresses: Address) -> AsyncIterator[Pool]:
    """A pool that judges replicas; its time passes when a test says so, beside its own."""
    pool = Pool("m", "g1", NODE, lambda: None, Probing(Probe(SIGNATURE), lambda arrays: BatchMessage(arrays, 0), 10.0))
    pool.follow(addresses)
    try:
        yield pool
    finally:
        pool.close()


def pass_seconds(pool: Pool, seconds: float) -> None:
    """The replicas are heard meanwhile: their event loops live, whatever their runs do."""
    for _ in range(int(seconds / BEAT_S)):
        for link in pool._links.values():
            link.silent = 0
        pool.pass_time()


async def test_a_replica_gets_its_first_batch_after_a_run_that_has_succeeded() -> None:
    held = Held()
    async with served(held) as (_, address), probing(address) as pool:
        await held.until(1)
        assert pool.runners == 0
        assert "coming" in pool.why_idle
        held.go.set()
        await until(lambda: pool.runners == 1)


async def test_a_replica_whose_runs_end_no_more_is_passed_over_within_a_period_and_used_again_when_they_do() -> None:
    held = Held()
    async with served(held, name="r1") as (_, bad), served(name="r2") as (_, good), probing(bad, good) as pool:
        held.go.set()
        await until(lambda: pool.runners == 2)
        held.go.clear()
        before = len(held.running)
        pass_seconds(pool, 5.25)  # both are idle: both are probed
        await held.until(before + 1)
        pass_seconds(pool, 4.75)
        await until(lambda: pool.runners == 1)
        assert (await pool.ask(rows(1))).outputs[0].tolist() == [2]
        held.go.set()
        await until(lambda: pool.runners == 2)


async def test_a_replica_all_of_whose_runs_fail_is_told_from_a_guilty_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    broken = False

    async def run(gateway: str, batch: BatchMessage) -> AnswerMessage:
        if broken or batch.arrays[0][0] < 0:
            raise ValueError("an illegal memory access")
        return await double(gateway, batch)

    async with served(run) as (_, address), probing(address) as pool:
        await until(lambda: pool.runners == 1)
        for _ in range(10):
            with pytest.raises(ReplicaFailed):
                await pool.ask(rows(-1))
            pass_seconds(pool, 1)
            await until(lambda: pool.runners == 1)
        broken = True
        with pytest.raises(ReplicaFailed):
            await pool.ask(rows(1))
        pass_seconds(pool, 1)
        await until(lambda: pool.runners == 0)
        assert pool.why_idle == "none of 1 connected replicas can be used: its runs fail (ReplicaFailed)"
        broken = False
        pass_seconds(pool, 1)
        await until(lambda: pool.runners == 1)
    assert [record.message for record in caplog.records if "requests" in record.message] == [
        "model 'm': replica r1 gets requests",
        "model 'm': replica r1 gets no requests: its runs fail (ReplicaFailed)",
        "model 'm': replica r1 gets requests again",
    ]


async def test_the_log_has_a_line_for_a_replica_that_dies_and_for_its_return(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    async with served(name="r1") as (server, address), pooled(address) as pool:
        await until(lambda: pool.runners == 1)
        server.close()  # as the kernel does after kill -9
        await until(lambda: pool.runners == 0)
        async with served(name="r2") as (_, successor):
            pool.follow([successor])
            await until(lambda: pool.runners == 1)
            pool.pass_time()  # tells nothing twice
    assert caplog.messages == [
        "model 'm': replica r1 gets requests",
        "model 'm': replica r1 gets no requests: its connection has ended",
        "model 'm': replica r2 gets requests",
    ]


async def test_a_replica_that_leaves_in_order_is_not_told_as_one_that_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    async with served(name="r1") as (server, one), served(name="r2") as (_, two), pooled(one, two) as pool:
        await until(lambda: pool.runners == 2)
        left = asyncio.create_task(server.leave(10))
        await until(lambda: pool.runners == 1)
        pool.pass_time()
        assert await left
        server.close()
        await until(lambda: len(pool.states) == 1)
    assert caplog.messages[2:] == ["model 'm': replica r1 has left"]


async def until(condition: Callable[[], bool]) -> None:
    """Look again at each turn of the loop."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
