"""Where requests wait: handed in by the thread that speaks HTTP, taken and answered by the one that computes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from petrun.errors import PetrunError
from petrun.serve.openai import ApiError, CompletionRequest, Done

_POLL_SECONDS = 0.1
_FAULTS = (PetrunError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, OSError)
"""What computing an answer may raise: it ends the requests of its batch, and nothing else."""


@dataclass(frozen=True)
class Piece:
    """What came for the request of this number; `done` with the last piece."""

    index: int
    text: str
    done: Done | None = None
    scores: tuple[tuple[str, float], ...] = ()
    """Of a request that wants them: its new tokens as text, each with the log of its probability."""


class Engine(Protocol):
    """What answers. `pieces` is called by one thread only."""

    @property
    def names(self) -> tuple[str, ...]:
        """Models that a request may name."""

    def check(self, wanted: CompletionRequest) -> int:
        """Tokens of the prompt. Raises PetrunError for a prompt that is empty or too long. Called by any thread."""

    def pieces(self, wanted: Sequence[CompletionRequest]) -> Iterator[Piece]:
        """Answers to all of them, as they come."""


class PendingRequest:
    """One request on its way. `next` belongs to the event loop that made it, `put` to the thread that computes."""

    def __init__(self, wanted: CompletionRequest) -> None:
        self.wanted = wanted
        self.dropped = False
        """Nobody waits for it any more."""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | ApiError] = asyncio.Queue()

    def put(self, piece: Piece | ApiError) -> None:
        # The loop may have ended: then nobody waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def next(self) -> Piece:
        """Raises ApiError where it cannot be answered."""
        piece = await self._pieces.get()
        if isinstance(piece, ApiError):
            raise piece
        return piece


class RequestQueue:
    """A bounded queue."""

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self.running = 0
        self._waiting: deque[PendingRequest] = deque()
        self._changed = threading.Condition()
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def hand_in(self, ticket: PendingRequest) -> None:
        """Raises ApiError: 429 where too many wait, 503 where the server is ending."""
        with self._changed:
            if self._closed:
                raise ApiError(503, "The server is shutting down.")
            self._waiting = deque(each for each in self._waiting if not each.dropped)
            if len(self._waiting) >= self.most_waiting:
                raise ApiError(
                    429,
                    f"{self.most_waiting} requests wait already: try again later.",
                    code="rate_limit_exceeded",
                    kind="rate_limit_error",
                )
            self._waiting.append(ticket)
            self._changed.notify()

    def take(self, most: int, seconds: float = _POLL_SECONDS) -> list[PendingRequest]:
        """Those that waited longest; [] where none came in that time. They count as running until `done`."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(seconds)
            taken: list[PendingRequest] = []
            while self._waiting and len(taken) < most:
                ticket = self._waiting.popleft()
                if not ticket.dropped:
                    taken.append(ticket)
            self.running = len(taken)
            return taken

    def close(self) -> None:
        """No more requests are taken in; those that wait stay."""
        with self._changed:
            self._closed = True

    def refuse_all(self, why: ApiError) -> None:
        """Send away whoever still waits."""
        with self._changed:
            while self._waiting:
                self._waiting.popleft().put(why)


@dataclass
class _Ending:
    """When the server is told to end, and until when it still computes."""

    stopping: Callable[[], bool]
    begin: Callable[[], None]
    """Called once, when it is told."""
    grace_seconds: float
    deadline: float | None = None

    def over(self) -> bool:
        """The grace is used up."""
        if self.deadline is None and self.stopping():
            self.begin()
            self.deadline = time.monotonic() + self.grace_seconds
        return self.deadline is not None and time.monotonic() >= self.deadline


def work(
    desk: RequestQueue,
    engine: Engine,
    most: int,
    *,
    stopping: Callable[[], bool],
    closing: Callable[[], None],
    grace_seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Answer until `stopping`; then call `closing`, and answer what has come in already, for at most `grace_seconds`.

    `most`: requests that are computed together.
    """

    def begin() -> None:
        desk.close()
        closing()

    ending = _Ending(stopping, begin, grace_seconds)
    while not ending.over():
        tickets = desk.take(most, 0.0 if ending.deadline is not None else _POLL_SECONDS)
        if tickets:
            _answer(engine, tickets, ending.over, tell)
            desk.running = 0
        elif ending.deadline is not None:
            break
    desk.refuse_all(ApiError(503, "The server is shutting down."))


def _answer(
    engine: Engine, tickets: Sequence[PendingRequest], late: Callable[[], bool], tell: Callable[[str], None]
) -> None:
    """Compute one batch; whatever happens, everyone in it gets an end."""
    open_numbers = set(range(len(tickets)))
    why = ApiError(500, "The answer could not be computed.")
    pieces: Any = engine.pieces([ticket.wanted for ticket in tickets])
    try:
        for piece in pieces:
            tickets[piece.index].put(piece)
            if piece.done is not None:
                open_numbers.discard(piece.index)
            if late():
                why = ApiError(503, "The server is shutting down.")
                break
            if all(tickets[number].dropped for number in open_numbers):
                break
    except _FAULTS as error:
        message = error.message if isinstance(error, PetrunError) else f"{type(error).__name__}: {error}"
        tell(f"a request failed: {message.strip().splitlines()[0] if message.strip() else type(error).__name__}")
    finally:
        pieces.close()
        for number in open_numbers:
            tickets[number].put(why)
