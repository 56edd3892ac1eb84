"""Queue requests: the thread that serves HTTP submits them, the thread that computes takes and answers them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from petrun.errors import PetrunError
from petrun.serve.api_error import ApiError
from petrun.serve.openai import AnswerEnd, CompletionRequest

_POLL_SECONDS = 0.1
_COMPUTE_ERRORS = (PetrunError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, OSError)
"""Errors of computing an answer: one ends the requests that are computed, and the server continues."""


_NOT_COMPUTED = ApiError(500, "The answer could not be computed.")


@dataclass(frozen=True)
class StreamChunk:
    """New text of one request's answer; the last chunk has `end`."""

    number: int
    """Of the request, as `join` returned it."""
    text: str
    end: AnswerEnd | None = None
    scores: tuple[tuple[str, float], ...] = ()
    """Of a scored request: its new tokens as text, each with the natural logarithm of its probability."""
    error: PetrunError | None = None
    """Reason why the answer ends here, without an `end`."""


class Engine(Protocol):
    """Computes answers: requests join and leave between its steps. Only one thread calls these, but for `check`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Models that a request may name."""

    def check(self, request: CompletionRequest) -> int:
        """Count the tokens of the prompt. Raises PetrunError for a prompt that is empty or too long. Called by any thread."""

    def join(self, request: CompletionRequest) -> int:
        """Begin a request, from the next step on. Returns a number for it."""

    def step(self) -> Sequence[StreamChunk]:
        """Compute what comes next of every request that joined and has not ended."""

    def leave(self, number: int) -> None:
        """Give up a request."""


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
        """Take at most `most` requests, those that waited longest; [] where none came within `seconds`."""
        with self._changed:
            if not self._waiting and seconds > 0:
                self._changed.wait(seconds)
            taken: list[PendingRequest] = []
            while self._waiting and len(taken) < most:
                pending = self._waiting.popleft()
                if not pending.dropped:
                    taken.append(pending)
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

    `most`: requests that are computed together. `report`: called with a line for every failure.
    """

    def begin() -> None:
        queue.close()
        closing()

    shutdown = _Shutdown(stopping, begin, grace_seconds)
    running = _Running(engine, report)
    while not shutdown.over():
        running.drop()
        idle = not running.requests and shutdown.deadline is None
        for pending in queue.take(most - len(running.requests), _POLL_SECONDS if idle else 0.0):
            running.join(pending)
        queue.running = len(running.requests)
        if running.requests:
            running.step()
            queue.running = len(running.requests)
        elif shutdown.deadline is not None:
            break
    reason = ApiError(503, "The server is shutting down.")
    running.end(reason)
    queue.running = 0
    queue.refuse_all(reason)


class _Running:
    """The requests that are being answered. Every one gets its last chunk or an error, whatever happens."""

    def __init__(self, engine: Engine, report: Callable[[str], None]) -> None:
        self.requests: dict[int, PendingRequest] = {}
        self._engine = engine
        self._report = report

    def join(self, pending: PendingRequest) -> None:
        try:
            self.requests[self._engine.join(pending.request)] = pending
        except _COMPUTE_ERRORS as error:
            self._fail(pending, error)

    def drop(self) -> None:
        """Give up the requests whose clients have gone."""
        for number in [number for number, pending in self.requests.items() if pending.dropped]:
            self._engine.leave(number)
            del self.requests[number]

    def step(self) -> None:
        """Hand over what the next step gives. Where it fails, all requests end."""
        try:
            chunks = self._engine.step()
        except _COMPUTE_ERRORS as error:
            self._tell(list(self.requests.values()), error)
            self.end(_NOT_COMPUTED)
            return
        for chunk in chunks:
            pending = self.requests[chunk.number]
            if chunk.error is not None:
                self._fail(pending, chunk.error)
            else:
                pending.put(chunk)
            if chunk.end is not None or chunk.error is not None:
                del self.requests[chunk.number]

    def end(self, reason: ApiError) -> None:
        """End all requests with this error."""
        for number, pending in self.requests.items():
            self._engine.leave(number)
            pending.put(reason)
        self.requests.clear()

    def _fail(self, pending: PendingRequest, error: BaseException) -> None:
        # First the log: who reads the answer may look there.
        self._tell([pending], error)
        pending.put(_NOT_COMPUTED)

    def _tell(self, failed: Sequence[PendingRequest], error: BaseException) -> None:
        message = error.message if isinstance(error, PetrunError) else f"{type(error).__name__}: {error}"
        what = "a request failed" if len(failed) == 1 else f"{len(failed)} requests failed"
        self._report(f"{what}: {message.strip().splitlines()[0] if message.strip() else type(error).__name__}")
