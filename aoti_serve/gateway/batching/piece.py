"""What waits and what runs: a request's rows, or some of the rows of a request that is larger than a batch."""

from __future__ import annotations

from asyncio import Future
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from aoti_serve.gateway.batching.backlog import Queue
    from aoti_serve.gateway.batching.batch import Batch
    from aoti_serve.gateway.batching.split import Split

Arrays = list[NDArray[Any]]
Shape = tuple[tuple[int, ...], ...]

# Triton's: a request that says nothing, or 0, has the default.
MOST_URGENT, DEFAULT_PRIORITY, LEAST_URGENT = 1, 5, 9

_numbers = count()


def shape_of(arrays: Arrays) -> Shape:
    """Of one row of each."""
    return (arrays[0].shape[1:],) if len(arrays) == 1 else tuple([array.shape[1:] for array in arrays])


class Answered(Protocol):
    """What a run gives back: outputs in order, the version that computed them, since which epoch it answers."""

    @property
    def version(self) -> int: ...

    @property
    def epoch(self) -> int: ...

    @property
    def outputs(self) -> Arrays: ...


class Rows(NamedTuple):
    """One request's part of an answer."""

    version: int
    outputs: Arrays


class Piece:
    """Rows that stay together, in the gateway's event loop.

    `future` is the request's, one for all its pieces; it is done when nobody needs them any more: answered, failed,
    expired, or the caller has gone. Lower `rank` goes first, and of equal ones the lower `number`. `queue` and `batch`
    say where it is; `died`, that a replica has died with it; `counted` is for how many rows it counts where the rows
    that wait are limited. Times are the loop's.
    """

    __slots__ = (
        "arrays",
        "arrival",
        "batch",
        "counted",
        "deadline",
        "died",
        "future",
        "level",
        "nbytes",
        "number",
        "queue",
        "rank",
        "rows",
        "shape",
        "split",
    )

    def __init__(
        self,
        arrays: Arrays,
        shape: Shape,
        rows: int,
        nbytes: int,
        level: int,
        arrival: float,
        rank: float,
        deadline: float | None,
        future: Future[Rows],
        split: Split | None = None,
    ) -> None:
        self.arrays = arrays
        self.shape = shape
        self.rows = rows
        self.counted = rows or 1  # so that there is an end to those without rows
        self.nbytes = nbytes
        self.level = level
        self.arrival = arrival
        self.rank = rank
        self.number = next(_numbers)
        self.deadline = deadline
        self.future = future
        self.split = split
        self.queue: Queue | None = None
        self.batch: Batch | None = None
        self.died = False

    @property
    def family(self) -> list[Piece]:
        """All pieces of its request."""
        return self.split.pieces if self.split else [self]
