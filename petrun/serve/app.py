"""The HTTP side: routes, the key, bounded bodies, streams. Every refusal has OpenAI's form."""

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

from petrun.errors import PetrunError, PromptTooLong
from petrun.serve.openai import (
    ApiError,
    Done,
    Limits,
    answer,
    chunk,
    event,
    model_object,
    parse_json,
    read_wanted,
    usage_chunk,
)
from petrun.serve.request_queue import Engine, PendingRequest, Piece, RequestQueue
from petrun.serve.server import is_loopback

_BODY_SECONDS = 30.0
"""For a client to send its body."""

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    engine: Engine
    desk: RequestQueue
    limits: Limits
    key: str | None = None
    """What a client must send as `Authorization: Bearer KEY`; None: nothing."""
    local: bool = False
    """Only requests that name this machine are answered: a web page whose own name has come to mean it is kept out."""
    started: int = field(default_factory=lambda: int(time.time()))


def make_app(service: Service) -> Starlette:
    """The ASGI application."""

    def guarded(endpoint: Callable[[Service, Request], Awaitable[Response]]) -> Endpoint:
        async def run(request: Request) -> Response:
            try:
                if service.local:
                    _require_local(request)
                _require_key(service, request)
                return await endpoint(service, request)
            except ApiError as refusal:
                return _refused(refusal)

        return run

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": service.desk.waiting, "running": service.desk.running})

    return Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/v1/models", guarded(_models), methods=["GET"]),
            Route("/v1/models/{name:path}", guarded(_model), methods=["GET"]),
            Route("/v1/chat/completions", guarded(_chat), methods=["POST"]),
            Route("/v1/completions", guarded(_text), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _unrouted},
    )


def _refused(refusal: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    extra = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(refusal.status, {})
    if refusal.status in (408, 413, 503):
        # What is left of the body would be read as the next request.
        extra["Connection"] = "close"
    return JSONResponse(refusal.body, refusal.status, headers={**extra, **(headers or {})})


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = HTTPStatus(error.status_code).phrase
    path = request.url.path[:200]
    return _refused(ApiError(error.status_code, f"{what}: {request.method} {path}"), error.headers)


def _require_local(request: Request) -> None:
    """Raises ApiError where the address that the client has asked for is not a loopback one."""
    try:
        host = urlsplit("//" + request.headers.get("host", "")).hostname or ""
    except ValueError:
        host = ""
    if not is_loopback(host):
        raise ApiError(403, "This server answers to localhost alone. For other names start it with an API key.")


def _require_key(service: Service, request: Request) -> None:
    """Raises ApiError, having looked at every character."""
    if service.key is None:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), service.key.encode())
    if kind.lower() != "bearer" or not right:
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
    wanted = read_wanted(parse_json(await _body(service, request)), service.limits, chat=chat)
    _require_model(service, wanted.model)
    try:
        # Long texts take a while to tokenise, and others are served meanwhile.
        await asyncio.to_thread(service.engine.check, wanted)
    except PetrunError as error:
        raise ApiError(
            400, error.message, code="context_length_exceeded" if isinstance(error, PromptTooLong) else None,
            param="messages" if chat else "prompt",
        ) from error  # fmt: skip
    ticket = PendingRequest(wanted)
    service.desk.hand_in(ticket)
    if wanted.stream:
        # The first piece decides about the status: nothing has been sent yet.
        first = await _or_gone(ticket, request)
        return StreamingResponse(_events(ticket, first), media_type="text/event-stream", headers=_UNCACHED)
    pieces = [await _or_gone(ticket, request)]
    while pieces[-1].done is None:
        pieces.append(await _or_gone(ticket, request))
    scores = [score for piece in pieces for score in piece.scores]
    text = "".join(piece.text for piece in pieces)
    return JSONResponse(answer(wanted, text, _done(pieces[-1]), int(time.time()), scores))


_UNCACHED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def _done(piece: Piece) -> Done:
    assert piece.done is not None
    return piece.done


async def _body(service: Service, request: Request) -> bytes:
    """The request's body. Raises ApiError: 415 for what is not sent as JSON, 413 for one that is too large, 408 for a slow one."""
    # Any web page may have a browser send a form or plain text to this address; for JSON the browser asks first.
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


async def _or_gone(ticket: PendingRequest, request: Request) -> Piece:
    """The next piece; a client that goes away meanwhile drops its ticket. Raises ApiError."""
    coming, leaving = asyncio.ensure_future(ticket.next()), asyncio.ensure_future(request.receive())
    came = False
    try:
        await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
        came = coming.done()
        if not came:
            raise ApiError(400, "The client went away.")
        return coming.result()
    finally:
        ticket.dropped = ticket.dropped or not came
        for task in (coming, leaving):
            task.cancel()
        await asyncio.gather(coming, leaving, return_exceptions=True)


async def _events(ticket: PendingRequest, first: Piece) -> AsyncIterator[bytes]:
    """Server-sent events of one answer. Starlette ends the iteration where the client goes away."""
    wanted, created = ticket.wanted, int(time.time())
    try:
        if wanted.chat:
            yield event(chunk(wanted, created, "", first=True))
        piece = first
        scores, shown = list(first.scores), 0
        while piece.done is None or piece.text:
            if piece.text:
                yield event(chunk(wanted, created, piece.text, scores=scores, offset=shown))
                shown += sum(len(text) for text, _ in scores)
                scores = []
            if piece.done is not None:
                break
            piece = await ticket.next()
            scores += piece.scores
        yield event(chunk(wanted, created, None, piece.done.finish, scores=scores, offset=shown))
        if wanted.with_usage:
            yield event(usage_chunk(wanted, created, piece.done))
        yield event("[DONE]")
    except ApiError as refusal:
        # The status is sent: what is left is to say it in the stream.
        yield event(refusal.body)
    finally:
        ticket.dropped = True
