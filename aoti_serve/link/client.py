"""The gateway's end of a link."""

from __future__ import annotations

import asyncio
from asyncio import Future
from itertools import count

from aoti_serve.address import Address
from aoti_serve.errors import LinkBroken, ReplicaDied
from aoti_serve.link.frames import Frame, Kind
from aoti_serve.link.handshake import CallingEnd
from aoti_serve.link.health.run_health import RunHealth
from aoti_serve.link.messages import AnswerMessage, BatchMessage, answer_of, batch_bytes, failure_of

# Ticks without a frame of the replica, which beats once a tick. Beyond QUIET it gets no new batch, at STOPPED it counts
# as dead.
QUIET, STOPPED = 4, 20


class Link(CallingEnd):
    """Sends batches and takes answers, many at a time. Lives in the gateway's event loop.

    `leaving` counts the ticks since the replica wanted to go; it still answers until it is let go. `health` judges its
    runs, if anybody does.
    """

    def __init__(self, model: str, address: Address, gateway: str, health: RunHealth | None = None) -> None:
        super().__init__(address, gateway)
        self.leaving = 0
        self.health = health
        self._gone = False
        self._model = model
        self._calls: dict[int, Future[AnswerMessage]] = {}
        self._numbers = count(1)
        self._others = 0  # batches of other gateways, as far as the replica has told

    @property
    def usable(self) -> bool:
        """Whether a client's batch may be sent now."""
        heard = self.silent < QUIET and not self._gone and not self.closed.done()
        return heard and (self.health is None or self.health.trusted)

    @property
    def fault(self) -> str | None:
        """The reason, in words, why a replica that neither leaves nor has just come is not usable."""
        if self.silent >= QUIET:
            return "it is silent"
        return self.health.fault if self.health else None

    @property
    def load(self) -> float:
        """The batches that the replica has in hand for each runner."""
        return (len(self._calls) + self._others) / self.address.runners

    async def ask(self, batch: BatchMessage) -> AnswerMessage:
        """Have a batch run. Raises what the replica has raised, and ReplicaDied if the link ends before the answer.

        The batch's arrays must not change before it has been answered. A cancelled call is cancelled in the replica.
        """
        if self.health is None:
            return await self._ask(batch)
        began = self.health.begin()
        try:
            answer = await self._ask(batch)
        except BaseException as error:
            self.health.end(began, error)
            raise
        self.health.end(began)
        return answer

    async def _ask(self, batch: BatchMessage) -> AnswerMessage:
        call = next(self._numbers)
        answer: Future[AnswerMessage] = asyncio.get_running_loop().create_future()
        self._calls[call] = answer
        try:
            self.outgoing.send(Kind.BATCH, call, batch_bytes(batch))
            return await answer
        except asyncio.CancelledError:
            if not self.closed.done():
                self.outgoing.cancel(call)
                self.outgoing.signal(Kind.CANCEL, call)
            raise
        finally:
            self._calls.pop(call, None)

    def tick(self) -> None:
        """Count a tick. Ends a link whose replica is stopped."""
        self.silent += 1
        self.leaving += self.leaving > 0
        if self.silent >= STOPPED:
            self.abort(LinkBroken(detail=f"replica {self.address.replica} has stopped"))

    def let_go(self) -> None:
        """Send no more batches, and tell the replica."""
        if not self._gone:
            self._gone = True
            self.outgoing.signal(Kind.LEFT)

    def deliver(self, frame: Frame) -> None:
        answer = self._calls.pop(frame.call, None)
        self._others = max(0, frame.busy - len(self._calls))
        match frame.kind:
            case Kind.ANSWER | Kind.FAILURE:
                self._settle(answer, frame)
            case Kind.LEAVING:
                self.leaving = self.leaving or 1
            case Kind.BEAT:
                pass
            case _:
                raise LinkBroken(detail=f"a replica sends {frame.kind.name}")

    def end(self) -> None:
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(ReplicaDied(model=self._model))

    def _settle(self, answer: Future[AnswerMessage] | None, frame: Frame) -> None:
        if answer is None or answer.done():  # nobody waits for it any more
            return
        if frame.kind is Kind.ANSWER:
            answer.set_result(answer_of(frame.message, self.address.replica))
        else:
            answer.set_exception(failure_of(frame.message))
