"""Requests share runs. This is the whole policy, in the order in which a request meets it.

**Admission.** What may not wait is refused at once (QueueFull, 503, with the seconds after which to come again): beyond
`max_queued_rows`, of which a request larger than a batch takes one batch, or `max_queued_bytes`, and if the rows that
go before it would not leave within `max_queue_wait_ms` at the pace that is measured while all runners are busy. So an
overload costs those who come too much, and not everybody their latency. A full batch for each runner may always wait,
however slow the model is; while the pace is not known, or there is no runner, only the first two limits hold. When
nothing waits, any request is let in.

**Order.** A request goes by its arrival plus its level of priority (1 to 9; 0, or nothing, means 5) times
`priority_ageing_ms`: the urgent first, equals in order, and nobody waits longer than eight times that for others that
came later. For admission only rows of the same or of more urgent levels count: the urgent get in when the queue is full
of others.

**Leaving.** While a runner is free, rows leave at once: one client pays no delay. While all are busy rows gather, and
the next free runner takes up to `max_batch_size` of them: many clients fill the batches by themselves. It is rows that
count, not requests, and only equal trailing shapes go together. With `max_queue_delay_ms` rows wait so long for company
even while a runner is free. While more than half a batch waits, as many more batches as there are runners leave ahead,
so that a runner finds the next one at its door: the way there and back may take longer than the run. Less than that
gathers, which is worth more than the gap. The order is kept: what leaves is the batch whose first row goes first.

**Large requests.** More rows than a batch holds are cut into nearly equal pieces, which run like other requests and
share batches with them, and are rejoined in order. One answer is of one version: if a swap came in between, the pieces
that older weights answered run again. No piece is below the model's smallest batch; where there is no other way the
last two overlap.

**Giving up.** A request whose `timeout` passes gets DeadlineExceeded then, wherever it is; it, and one whose caller has
gone, leaves the queue and is not run again, and a run that nobody waits for any more is cancelled.

**Failures.** A batch that fails runs again in halves, on the same runner, until only the guilty request fails. If the
replica has died, its requests run again alone, one after the other: over the guilty one a second replica dies, and no
third (PoisonousRequest). If the server cannot answer (Unavailable) all of them fail at once.

How many batches may be under way follows `runners`, up and down, at any moment.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import DeadlineExceeded, PoisonousRequest, ReplicaDied, Unavailable
from aoti_serve.gateway.admission import Admission
from aoti_serve.gateway.backlog import Backlog
from aoti_serve.gateway.batch import Batch, Run, handed_out
from aoti_serve.gateway.deadlines import Deadlines
from aoti_serve.gateway.pace import Pace
from aoti_serve.gateway.piece import (
    DEFAULT_PRIORITY,
    LEAST_URGENT,
    MOST_URGENT,
    Answered,
    Arrays,
    Piece,
    Rows,
    Shape,
)
from aoti_serve.gateway.split import divided

__all__ = ["DEFAULT_PRIORITY", "LEAST_URGENT", "MOST_URGENT", "Answered", "Arrays", "Batcher", "Rows", "Run"]


class Batcher:
    """Runs in the gateway's event loop, one per model.

    `run(arrays, timeout)` sends one batch to a replica; `timeout` is how many seconds the most patient of its requests
    still has, None if one has no deadline. With `batches`, the first dimension of all arrays is rows; without, every
    request is a batch. `smallest` is the fewest rows that the model takes.
    """

    def __init__(self, model: str, config: BatchingConfig, run: Run, *, batches: bool, smallest: int = 0) -> None:
        self._model = model
        self._run = run
        self._batches = batches
        self._smallest = smallest
        self._largest = max(config.max_batch_size, smallest) if batches else 1
        self._delay = config.max_queue_delay_ms / 1e3 if batches else 0.0
        self._ageing = config.priority_ageing_ms / 1e3
        self._backlog = Backlog(self._largest, self._delay)
        self._pace = Pace()
        self._admission = Admission(model, config, self._largest, self._backlog, self._pace)
        self._deadlines = Deadlines(self._expire)
        self._runners = 0
        self._under_way = self._running = 0
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def runners(self) -> int:
        """How many batches may be running; as many again may have left ahead of them."""
        return self._runners

    @runners.setter
    def runners(self, count: int) -> None:
        self._runners = count
        self._pump()

    @property
    def rows(self) -> int:
        """How many rows are in hand: those that wait, and those that have left and are not answered."""
        return self._backlog.rows + self._running

    async def submit(self, arrays: Arrays, *, priority: int = 0, timeout: float | None = None) -> Rows:
        """This request's rows of an answer that one version computed.

        `priority` is a level, or 0 for the default; `timeout` is in seconds. Raises QueueFull, DeadlineExceeded,
        PoisonousRequest, Unavailable, or what the run of this request alone has raised.
        """
        assert 0 <= priority <= LEAST_URGENT, "it is checked where it is read"
        loop = asyncio.get_running_loop()
        piece = self._piece(arrays, priority or DEFAULT_PRIORITY, timeout, loop)
        if piece.deadline is not None:
            self._deadlines.add(piece, piece.deadline, loop)
        self._pump()
        try:
            return await piece.future
        except asyncio.CancelledError:
            self._withdraw(piece)
            raise
        finally:
            if piece.deadline is not None:
                self._deadlines.remove(piece)
            del piece  # an error that is raised here holds this frame: nothing in it may lead back to the error

    def _piece(self, arrays: Arrays, level: int, timeout: float | None, loop: asyncio.AbstractEventLoop) -> Piece:
        """The request, or the first of its pieces, once it waits."""
        if timeout is not None and not timeout > 0:
            raise self._late(timeout)
        rows = arrays[0].shape[0] if self._batches else 1
        nbytes = arrays[0].nbytes if len(arrays) == 1 else sum([array.nbytes for array in arrays])
        if self._backlog.rows:
            self._admission.check(rows, nbytes, level, self._runners)
        now = loop.time()
        piece = Piece(
            arrays,
            _shape(arrays) if self._batches else (),
            rows,
            nbytes,
            level,
            now,
            now + level * self._ageing,
            None if timeout is None else now + timeout,
            loop.create_future(),
        )
        if rows <= self._largest:
            self._backlog.enter(piece)
            return piece
        pieces = divided(piece, self._model, self._largest, self._smallest)
        for piece in pieces:
            self._backlog.enter(piece)
        return pieces[0]

    def _pump(self) -> None:
        """Send batches while there are runners for them and rows are due."""
        backlog = self._backlog
        while backlog.rows and self._under_way < (2 * self._runners if backlog.ample else self._runners):
            loop = asyncio.get_running_loop()
            now, before = loop.time(), backlog.rows
            pieces = backlog.take(now)
            if pieces:
                self._under_way += 1
                self._running += before - backlog.rows
                steady = backlog.rows and self._under_way >= self._runners
                share = self._runners / self._under_way if steady else 0.0
                self._send(Batch(pieces, now, before - backlog.rows, share), loop)
            elif backlog.rows:
                self._wake_at(backlog.due(), loop)
                return

    def _wake_at(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        """Pump again when rows have waited for company long enough. Who comes later is not due earlier."""
        if self._alarm is None:
            self._alarm = loop.call_at(when, self._woken)

    def _woken(self) -> None:
        self._alarm = None
        self._pump()

    def _send(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> None:
        # In no request's context: Serve cancels all calls that were made in one when its client goes.
        batch.task = loop.create_task(batch.answer(self._run, loop.time()), context=Context())
        batch.task.add_done_callback(partial(self._ended, batch))

    def _ended(self, batch: Batch, task: asyncio.Task[Answered]) -> None:
        """The runner goes on before anybody has the answer: to hand that out takes the event loop a while."""
        loop = task.get_loop()
        batch.task = None
        pieces, answer = batch.pieces, self._answer(batch, task, loop.time())
        batch.share = 0.0  # what runs again says nothing of the pace
        if batch.advance():
            self._send(batch, loop)
        else:
            self._under_way -= 1
            self._running -= batch.rows
        self._pump()
        if answer is not None:
            self._hand_out(pieces, answer)

    def _answer(self, batch: Batch, task: asyncio.Task[Answered], now: float) -> Answered | None:
        """What the run has given; None if nobody gets an answer, and it is seen to that they run again."""
        if task.cancelled():
            self._fail(batch.pieces, Unavailable(detail=f"model '{self._model}': the run was cancelled"))
            return None
        failure = task.exception()
        if failure is not None:
            self._failed(batch, failure)
            return None
        answer = task.result()
        if batch.share:
            self._pace.note(batch.rows, (now - batch.left) * batch.share)
        try:
            batch.check(answer)
        except Exception as error:
            self._failed(batch, error)
            return None
        return answer

    def _hand_out(self, pieces: list[Piece], answer: Answered) -> None:
        try:
            late = handed_out(pieces, answer)
        except Exception as error:
            self._fail(pieces, error)
            return
        for piece in late:
            piece.died = False
            self._backlog.enter(piece)
        if late:
            self._pump()

    def _failed(self, batch: Batch, error: BaseException) -> None:
        if isinstance(error, ReplicaDied):  # once it may be anybody's fault; alone and again, it is this request's
            if batch.pieces[0].died:
                error = PoisonousRequest(model=self._model).with_traceback(error.__traceback__)
                self._fail(batch.pieces, error)
            else:
                batch.scatter(self._kin(batch.pieces))
        elif len(batch.pieces) == 1 or isinstance(error, Unavailable | DeadlineExceeded):
            self._fail(batch.pieces, error)
        else:
            batch.halve()

    def _kin(self, pieces: list[Piece]) -> list[Piece]:
        """What waits of the requests that a replica may have died over: no other one should meet it in company."""
        waiting = [piece for met in pieces if met.split for piece in met.family if piece.queue]
        kin = list(dict.fromkeys(waiting))
        for piece in kin:
            self._backlog.withdraw(piece)
        return kin

    def _fail(self, pieces: list[Piece], error: BaseException) -> None:
        for piece in pieces:
            if not piece.future.done():
                piece.future.set_exception(error)
                if piece.split:
                    self._withdraw(piece)

    def _late(self, timeout: float) -> DeadlineExceeded:
        return DeadlineExceeded(model=self._model, timeout=f"{timeout:g}")

    def _expire(self, piece: Piece) -> None:
        assert piece.deadline is not None
        if not piece.future.done():
            piece.future.set_exception(self._late(piece.deadline - piece.arrival))
            self._withdraw(piece)

    def _withdraw(self, piece: Piece) -> None:
        """Nobody needs this request any more: spend nothing on it that can be saved."""
        for each in piece.family:
            if each.queue:
                self._backlog.withdraw(each)
                each.arrays = []  # the heap may hold the piece for a while
            elif each.batch:
                each.batch.cancel_if_unwanted()
        if piece.split:
            piece.split.dissolve()


def _shape(arrays: Arrays) -> Shape:
    """Of one row of each."""
    return (arrays[0].shape[1:],) if len(arrays) == 1 else tuple([array.shape[1:] for array in arrays])
