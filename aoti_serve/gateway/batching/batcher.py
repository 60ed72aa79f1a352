"""The batcher of one model: who leaves when, and with whom. The policy is told in `aoti_serve.gateway.batching`."""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from time import monotonic  # the same clock as the loop's, whose time uvloop gives in whole milliseconds

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import TryAgain
from aoti_serve.gateway.batching.absence import Absence
from aoti_serve.gateway.batching.admission import AdmissionControl
from aoti_serve.gateway.batching.backlog import Backlog, BatcherLoad
from aoti_serve.gateway.batching.batch import Batch, RunBatch, deliver
from aoti_serve.gateway.batching.deadlines import DeadlineQueue
from aoti_serve.gateway.batching.failures import Failures
from aoti_serve.gateway.batching.hold import Hold
from aoti_serve.gateway.batching.lengths import Company, RowPadding
from aoti_serve.gateway.batching.measures import Measures
from aoti_serve.gateway.batching.work_item import Arrays, Rows, Split, WorkItem
from aoti_serve.gateway.figures.model_figures import ModelFigures
from aoti_serve.link.messages import AnswerMessage
from aoti_serve.protocol.messages import LEAST_URGENT

DEFAULT_PRIORITY = 5  # Triton's, for a request that names none, or 0
TURN = 2  # batches


class Batcher:
    """The batcher of one model. Runs in the gateway's event loop, and notes in `figures` what it does.

    `run(arrays, timeout)` sends one batch to a replica. `timeout` is the longest time in seconds that one of its
    requests still has; None if one has no deadline. With `batches`, the first dimension of all arrays is rows; without,
    every request is a batch. `smallest` is the fewest rows that the model takes, `lengths` how they are padded.
    """

    def __init__(
        self,
        figures: ModelFigures,
        config: BatchingConfig,
        run: RunBatch,
        *,
        batches: bool,
        smallest: int = 0,
        lengths: RowPadding | None = None,
    ) -> None:
        self._figures = figures
        self._model = model = figures.name
        self._run = run
        self._batches = batches
        self._smallest = smallest
        self._largest = max(config.max_batch_size, smallest) if batches else 1
        delay = config.max_queue_delay_ms / 1e3 if batches else 0.0
        self._ageing = config.priority_ageing_ms / 1e3
        self._lengths = lengths or RowPadding(None)
        self._company = Company(self._largest)
        self._backlog = Backlog(self._largest, delay)
        self._measures = Measures(holds=self._largest > 1 and not delay)
        self._returns = self._measures.returns
        self._hold = Hold(self._largest, self._backlog, self._measures.cost, self._returns, self._pump)
        self._admission = AdmissionControl(model, config, self._largest, self._backlog, self._measures.pace)
        self._failures = Failures(model, self._backlog)
        self._deadlines = DeadlineQueue(self._failures.expire)
        self._absence = Absence(model, config.longest_wait_s, self._backlog, self._failures.give_up)
        self._runners = self._under_way = self._running = 0
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def runners(self) -> int:
        """How many batches may be running; as many again may have left ahead of them."""
        return self._runners

    @runners.setter
    def runners(self, count: int) -> None:
        self._runners = count
        self._absence.note(count, monotonic())
        self._pump()

    @property
    def rows(self) -> int:
        """The rows in hand: those that wait, and those that have left and are not answered."""
        return self._backlog.rows + self._backlog.later + self._running

    @property
    def load(self) -> BatcherLoad:
        backlog = self._backlog
        return BatcherLoad(backlog.rows + backlog.later, backlog.nbytes, self._under_way, self._runners)

    async def submit(self, arrays: Arrays, *, priority: int = 0, timeout: float | None = None) -> Rows:
        """Run one request. Returns its rows of an answer that one version computed.

        `priority` is a level, or 0 for the default; `timeout` is in seconds. Raises QueueFull, DeadlineExceeded,
        PoisonRequest, Unavailable, or the error of the run of this request alone.
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
            self._failures.withdraw(piece)
            raise
        finally:
            if piece.deadline is not None:
                self._deadlines.remove(piece)
            del piece  # an error that is raised here holds this frame: nothing in it may lead back to the error

    def _piece(self, arrays: Arrays, level: int, timeout: float | None, loop: asyncio.AbstractEventLoop) -> WorkItem:
        """Enter the request, or the first of its pieces, into the backlog."""
        if timeout is not None and not timeout > 0:
            raise self._failures.late(timeout)
        rows = arrays[0].shape[0] if self._batches else 1
        nbytes = arrays[0].nbytes if len(arrays) == 1 else sum([array.nbytes for array in arrays])
        if self._backlog.rows:
            self._admission.check(rows, nbytes, level, self._runners)
        now = monotonic()
        shape, own = self._lengths.of(arrays) if self._batches else ((), {})
        rank, deadline = now + level * self._ageing, None if timeout is None else now + timeout
        piece = WorkItem(arrays, shape, rows, nbytes, level, now, rank, deadline, loop.create_future(), own)
        if rows > self._largest:
            split = Split(piece, self._model, self._largest, self._smallest)
            self._backlog.enter_split(split, piece.rank)
            return split.pieces[0]
        self._returns.note_arrived(rows, now)
        self._backlog.enter(piece)
        return piece

    def _pump(self) -> None:
        """Send batches while there are runners for them and rows are due."""
        backlog = self._backlog
        while backlog.rows and self._under_way < (2 * self._runners if backlog.ample else self._runners):
            loop = asyncio.get_running_loop()
            now, before = monotonic(), backlog.rows
            if self._hold.lasts(self._runners - self._under_way, now, self._deadlines.next, loop):
                return
            last = self._lengths.padded and self._runners - self._under_way <= 1
            pieces = backlog.take(now, self._company if last else None)
            if pieces:
                rows = before - backlog.rows
                if backlog.later:
                    self._follow(pieces, now)
                self._under_way += 1
                self._running += rows
                share = self._runners / self._under_way if backlog.rows and self._under_way >= self._runners else 0.0
                self._send(Batch(pieces, now, rows, self._under_way <= self._runners, share, self._lengths), loop)
            elif backlog.rows:
                if self._alarm is None:
                    self._alarm = loop.call_at(backlog.due(), self._on_alarm)
                return
        if not self._runners and backlog.rows:
            self._absence.watch(monotonic(), asyncio.get_running_loop())

    def _follow(self, pieces: list[WorkItem], now: float) -> None:
        """Enter the next piece of each large request of which a piece has left, at its turn."""
        for piece in pieces:
            if piece.split:
                turn = TURN * self._measures.seconds(piece.rows, self._runners)
                latest = now + (piece.level - 1) * self._ageing  # as if it had come by a level's worth earlier
                self._backlog.follow(piece.split, max(piece.rank + turn, latest))

    def _on_alarm(self) -> None:
        self._alarm = None
        self._pump()

    def _send(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> None:
        # In no request's context: Serve cancels all calls that were made in one when its client goes.
        batch.task = loop.create_task(batch.answer(self._run, monotonic()), context=Context())
        batch.task.add_done_callback(partial(self._on_end, batch))

    def _on_end(self, batch: Batch, task: asyncio.Task[AnswerMessage]) -> None:
        """Give the runner its next batch, then deliver the answer: delivery keeps the event loop busy for a while."""
        batch.task = None
        pieces, answer = batch.pieces, self._answer(batch, task, monotonic())
        if batch.advance():
            self._send(batch, task.get_loop())
        else:
            self._under_way -= 1
            self._running -= batch.rows
        self._pump()
        if answer is not None:
            self._note(pieces, batch.left, answer)
            self._hand_out(pieces, answer, batch.left)

    def _note(self, pieces: list[WorkItem], left: float, answer: AnswerMessage) -> None:
        wanted = [piece for piece in pieces if not piece.future.done()]
        waits = [left - piece.arrival for piece in wanted if not piece.start]
        self._figures.note_run(answer.version, sum([piece.rows for piece in pieces]), len(wanted), waits, answer.run)

    def _answer(self, batch: Batch, task: asyncio.Task[AnswerMessage], now: float) -> AnswerMessage | None:
        """The answer of the run; None if it failed. Then the batch knows what runs again."""
        if task.cancelled():
            failure: BaseException | None = TryAgain(detail=f"model '{self._model}': the run was cancelled")
        else:
            failure = task.exception() or batch.wrong_rows(task.result())
        if failure is not None:
            self._failures.handle(batch, failure)
            return None
        answer = task.result()
        self._measures.learn(batch, now, self._backlog.rows + self._running - batch.rows)
        if self._lengths.padded and batch.prompt:
            self._company.learn(batch.pieces, batch.rows, now - batch.left)
        return answer

    def _hand_out(self, pieces: list[WorkItem], answer: AnswerMessage, left: float) -> None:
        try:
            late = deliver(pieces, answer, left, self._lengths)
        except Exception as error:
            self._failures.fail(pieces, error)
            return
        for piece in late:
            if piece.split:
                self._backlog.enter_split(piece.split, piece.rank)
                self._pump()
