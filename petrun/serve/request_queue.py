"""Queue requests: the thread that serves HTTP submits them, the thread that computes takes and answers them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from petrun.errors import PetrunError
from petrun.serve.openai import AnswerEnd, ApiError, CompletionRequest

_POLL_SECONDS = 0.1
_COMPUTE_ERRORS = (PetrunError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, OSError)
"""Errors of computing an answer: one ends the requests of its batch, and the server continues."""


@dataclass(frozen=True)
class StreamChunk:
    """New text of one request's answer; the last chunk has `end`."""

    index: int
    """Position of the request in its batch."""
    text: str
    end: AnswerEnd | None = None
    scores: tuple[tuple[str, float], ...] = ()
    """Of a scored request: its new tokens as text, each with the natural logarithm of its probability."""


class Engine(Protocol):
    """Computes answers. Only one thread calls `stream`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Models that a request may name."""

    def check(self, request: CompletionRequest) -> int:
        """Count the tokens of the prompt. Raises PetrunError for a prompt that is empty or too long. Called by any thread."""

    def stream(self, requests: Sequence[CompletionRequest]) -> Generator[StreamChunk, None, None]:
        """Answer all requests together, chunk by chunk. Closing the generator gives up the rest."""


class PendingRequest:
    """A request whose answer is still coming. The event loop that made it calls `next`, the thread that computes calls `put`."""

    def __init__(self, request: CompletionRequest) -> None:
        self.request = request
        self.dropped = False
        """The client has gone: nobody waits for the answer."""
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[StreamChunk | ApiError] = asyncio.Queue()

    def put(self, chunk: StreamChunk | ApiError) -> None:
        """Hand over the next chunk, or the error that ends the answer."""
        # The loop may have ended; then nobody waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)

    async def next(self) -> StreamChunk:
        """Wait for the next chunk. Raises ApiError where the request cannot be answered."""
        chunk = await self._chunks.get()
        if isinstance(chunk, ApiError):
            raise chunk
        return chunk


class RequestQueue:
    """A bounded queue of pending requests, first come, first served."""

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self.running = 0
        self._waiting: deque[PendingRequest] = deque()
        self._changed = threading.Condition()
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, pending: PendingRequest) -> None:
        """Add a request. Raises ApiError: 429 where too many wait, 503 where the server shuts down."""
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
            self._waiting.append(pending)
            self._changed.notify()

    def take(self, most: int, seconds: float = _POLL_SECONDS) -> list[PendingRequest]:
        """Take at most `most` requests, those that waited longest; [] where none came within `seconds`. They count as `running`."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(seconds)
            taken: list[PendingRequest] = []
            while self._waiting and len(taken) < most:
                pending = self._waiting.popleft()
                if not pending.dropped:
                    taken.append(pending)
            self.running = len(taken)
            return taken

    def close(self) -> None:
        """Accept no more requests; those that wait stay."""
        with self._changed:
            self._closed = True

    def refuse_all(self, reason: ApiError) -> None:
        """End every request that still waits with this error."""
        with self._changed:
            while self._waiting:
                self._waiting.popleft().put(reason)


@dataclass
class _Shutdown:
    """Knows whether the server was told to end, and until when it still computes."""

    stopping: Callable[[], bool]
    begin: Callable[[], None]
    """Called once, when `stopping` becomes true."""
    grace_seconds: float
    deadline: float | None = None

    def over(self) -> bool:
        """Tell whether the grace period has passed."""
        if self.deadline is None and self.stopping():
            self.begin()
            self.deadline = time.monotonic() + self.grace_seconds
        return self.deadline is not None and time.monotonic() >= self.deadline


def process_requests(
    queue: RequestQueue,
    engine: Engine,
    most: int,
    *,
    stopping: Callable[[], bool],
    closing: Callable[[], None],
    grace_seconds: float,
    report: Callable[[str], None],
) -> None:
    """Answer requests until `stopping`; then call `closing`, and answer those that wait already, for at most `grace_seconds`.

    `most`: requests that are computed together. `report`: called with a line for every batch that failed.
    """

    def begin() -> None:
        queue.close()
        closing()

    shutdown = _Shutdown(stopping, begin, grace_seconds)
    while not shutdown.over():
        batch = queue.take(most, 0.0 if shutdown.deadline is not None else _POLL_SECONDS)
        if batch:
            _answer(engine, batch, shutdown.over, report)
            queue.running = 0
        elif shutdown.deadline is not None:
            break
    queue.refuse_all(ApiError(503, "The server is shutting down."))


def _answer(
    engine: Engine, batch: Sequence[PendingRequest], late: Callable[[], bool], report: Callable[[str], None]
) -> None:
    """Compute one batch. Every request in it gets its last chunk or an error, whatever happens."""
    unanswered = set(range(len(batch)))
    reason = ApiError(500, "The answer could not be computed.")
    chunks = engine.stream([pending.request for pending in batch])
    try:
        for chunk in chunks:
            batch[chunk.index].put(chunk)
            if chunk.end is not None:
                unanswered.discard(chunk.index)
            if late():
                reason = ApiError(503, "The server is shutting down.")
                break
            if all(batch[number].dropped for number in unanswered):
                break
    except _COMPUTE_ERRORS as error:
        message = error.message if isinstance(error, PetrunError) else f"{type(error).__name__}: {error}"
        report(f"a request failed: {message.strip().splitlines()[0] if message.strip() else type(error).__name__}")
    finally:
        chunks.close()
        for number in unanswered:
            batch[number].put(reason)
