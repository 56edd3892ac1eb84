"""Serve the routes: check the API key, bound the bodies, stream the answers. Every error has OpenAI's form."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from petrun.errors import PetrunError
from petrun.serve.address import is_loopback
from petrun.serve.api_error import OPENAI_CODES, ApiError
from petrun.serve.openai import (
    Limits,
    answer_object,
    chunk_object,
    event,
    model_object,
    parse_json,
    read_request,
    usage_object,
)
from petrun.serve.request_queue import Engine, PendingRequest, RequestQueue, StreamChunk

_BODY_SECONDS = 30.0
"""Time that a client has to send its body."""

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Service:
    """Everything that the routes use: the engine, the queue, the limits, and whom to answer."""

    engine: Engine
    queue: RequestQueue
    limits: Limits
    key: str | None = None
    """The API key that clients must send as `Authorization: Bearer KEY`; None: none."""
    loopback_only: bool = False
    """Answer only requests whose Host is a loopback address: web pages cannot then reach the server by DNS rebinding."""
    started: int = field(default_factory=lambda: int(time.time()))


def make_app(service: Service) -> Starlette:
    """Build the ASGI application."""

    def guarded(endpoint: Callable[[Service, Request], Awaitable[Response]]) -> Endpoint:
        async def run(request: Request) -> Response:
            try:
                if service.loopback_only:
                    _require_loopback(request)
                _require_key(service, request)
                return await endpoint(service, request)
            except ApiError as error:
                return _error_response(error)

        return run

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": service.queue.waiting, "running": service.queue.running})

    return Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/v1/models", guarded(_models), methods=["GET"]),
            Route("/v1/models/{name:path}", guarded(_model), methods=["GET"]),
            Route("/v1/chat/completions", guarded(_chat), methods=["POST"]),
            Route("/v1/completions", guarded(_text), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _routing_error},
    )


def _error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    extra = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(error.status, {})
    if error.status in (408, 413, 503):
        # The rest of the body would be read as the next request.
        extra["Connection"] = "close"
    return JSONResponse(error.body, error.status, headers={**extra, **(headers or {})})


async def _routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = HTTPStatus(error.status_code).phrase
    path = request.url.path[:200]
    return _error_response(ApiError(error.status_code, f"{reason}: {request.method} {path}"), error.headers)


def _require_loopback(request: Request) -> None:
    """Raises ApiError where the Host that the client names is not a loopback address."""
    try:
        host = urlsplit("//" + request.headers.get("host", "")).hostname or ""
    except ValueError:
        host = ""
    if not is_loopback(host):
        raise ApiError(403, "This server answers to localhost alone. For other names start it with an API key.")


def _require_key(service: Service, request: Request) -> None:
    """Raises ApiError for a wrong key. The comparison takes the same time for every key."""
    if service.key is None:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    correct = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), service.key.encode())
    if kind.lower() != "bearer" or not correct:
        raise ApiError(
            401, "Incorrect or missing API key: send it as 'Authorization: Bearer KEY'.", code="invalid_api_key"
        )


async def _models(service: Service, request: Request) -> Response:
    found = [model_object(name, service.started) for name in service.engine.names]
    return JSONResponse({"object": "list", "data": found})


async def _model(service: Service, request: Request) -> Response:
    name = request.path_params["name"]
    _require_model(service, name)
    return JSONResponse(model_object(name, service.started))


def _require_model(service: Service, name: str) -> None:
    if name not in service.engine.names:
        known = ", ".join(service.engine.names)
        raise ApiError(
            404, f"The model '{name[:200]}' does not exist. There are: {known}.", code="model_not_found", param="model"
        )


async def _chat(service: Service, request: Request) -> Response:
    return await _complete(service, request, chat=True)


async def _text(service: Service, request: Request) -> Response:
    return await _complete(service, request, chat=False)


async def _complete(service: Service, request: Request, *, chat: bool) -> Response:
    completion = read_request(parse_json(await _body(service, request)), service.limits, chat=chat)
    _require_model(service, completion.model)
    try:
        # A long text takes a while to tokenise; other requests are served meanwhile.
        await asyncio.to_thread(service.engine.check, completion)
    except PetrunError as error:
        raise ApiError(
            400, error.message, code=OPENAI_CODES.get(error.code), param="messages" if chat else "prompt"
        ) from error
    pending = PendingRequest(completion)
    service.queue.submit(pending)
    if completion.stream:
        # The first chunk decides the status, as nothing has been sent yet.
        first = await _next_or_gone(pending, request)
        return StreamingResponse(_events(pending, first), media_type="text/event-stream", headers=_UNCACHED)
    chunks = [await _next_or_gone(pending, request)]
    while (end := chunks[-1].end) is None:
        chunks.append(await _next_or_gone(pending, request))
    scores = [score for chunk in chunks for score in chunk.scores]
    text = "".join(chunk.text for chunk in chunks)
    return JSONResponse(answer_object(completion, text, end, int(time.time()), scores))


_UNCACHED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def _body(service: Service, request: Request) -> bytes:
    """Read the request's body. Raises ApiError: 415 for a body not sent as JSON, 413 for one too large, 408 for one too slow."""
    # Any web page can make a browser send a form or plain text to this address; for JSON the browser asks the server first (CORS).
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Send the body as 'Content-Type: application/json'.")
    most = service.limits.body_bytes
    too_large = ApiError(413, f"The body is larger than {most} bytes.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large

    async def read() -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise too_large
        return bytes(body)

    try:
        return await asyncio.wait_for(read(), _BODY_SECONDS)
    except asyncio.TimeoutError as error:
        raise ApiError(408, f"The body did not arrive within {_BODY_SECONDS:g} seconds.") from error
    except ClientDisconnect as error:
        raise ApiError(400, "The client went away.") from error


async def _next_or_gone(pending: PendingRequest, request: Request) -> StreamChunk:
    """Wait for the next chunk. Drops the request where the client goes away meanwhile. Raises ApiError."""
    coming, leaving = asyncio.ensure_future(pending.next()), asyncio.ensure_future(request.receive())
    came = False
    try:
        await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
        came = coming.done()
        if not came:
            raise ApiError(400, "The client went away.")
        return coming.result()
    finally:
        pending.dropped = pending.dropped or not came
        for task in (coming, leaving):
            task.cancel()
        await asyncio.gather(coming, leaving, return_exceptions=True)


async def _events(pending: PendingRequest, first: StreamChunk) -> AsyncIterator[bytes]:
    """Yield the server-sent events of one answer. Starlette ends the iteration where the client goes away."""
    completion, created = pending.request, int(time.time())
    try:
        if completion.chat:
            yield event(chunk_object(completion, created, "", first=True))
        current = first
        scores, shown = list(first.scores), 0
        while current.end is None or current.text:
            if current.text:
                yield event(chunk_object(completion, created, current.text, scores=scores, offset=shown))
                shown += sum(len(text) for text, _ in scores)
                scores = []
            if current.end is not None:
                break
            current = await pending.next()
            scores += current.scores
        yield event(chunk_object(completion, created, None, current.end.finish, scores=scores, offset=shown))
        if completion.with_usage:
            yield event(usage_object(completion, created, current.end))
        yield event("[DONE]")
    except ApiError as error:
        # The status has been sent; the stream itself has to carry the error.
        yield event(error.body)
    finally:
        pending.dropped = True
