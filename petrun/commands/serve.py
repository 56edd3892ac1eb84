"""`petrun serve`: answer over HTTP with a base and its deltas, each a model of OpenAI's API."""

from __future__ import annotations

import socket

from petrun import console
from petrun.config.commands.text import ServerSettings, ServeSettings
from petrun.config.schema import ModelConfig
from petrun.errors import SetupError
from petrun.inference.assembly import base_path
from petrun.inference.generation.session import Session
from petrun.inference.generation.session_engine import SessionEngine
from petrun.serve.address import bind
from petrun.serve.openai import Limits
from petrun.serve.request_queue import RequestQueue, process_requests
from petrun.serve.settings import read_api_key, require_packages
from petrun.tensors.sharded.ranks import root_of
from petrun.train.stop import Stopped, stop_request


def run(settings: ServeSettings) -> None:
    """Serve until a signal comes. Raises Stopped then, once the requests are answered or the grace period is over.

    Raises ConfigError and SetupError before anything is loaded for settings, an address or a key that cannot be used.
    """
    require_packages()
    settings.check()
    key = read_api_key(settings)
    bound = bind(settings.host, settings.port)
    try:
        engine = SessionEngine(Session.load(settings), _base_name(settings.base), settings.batch_size, settings.context)
        engine.warm_up()
        _serve(engine, settings, key, bound)
    finally:
        bound.close()


def _serve(engine: SessionEngine, settings: ServerSettings, key: str | None, bound: socket.socket) -> None:
    """Answer requests in this thread; another thread receives them over HTTP. Raises Stopped after a signal."""
    # These need the packages of the extra `serve`.
    from petrun.serve.app import Service, make_app
    from petrun.serve.server import HttpServer

    queue, stop = RequestQueue(settings.queue), stop_request()
    service = Service(
        engine=engine,
        queue=queue,
        limits=Limits(most_tokens=settings.max_tokens),
        key=key,
        loopback_only=key is None and not settings.without_key,
    )
    http = HttpServer(
        make_app(service), bound, grace_seconds=settings.grace_seconds, most_connections=settings.most_connections
    )
    with stop.deferring("finishing what was asked"):
        http.start()
        console.print(f"serving {', '.join(engine.names)} on {_url(bound)}")
        try:
            process_requests(
                queue,
                engine,
                settings.batch_size,
                stopping=lambda: stop.number is not None or not http.alive,
                closing=http.refuse,
                grace_seconds=settings.grace_seconds,
                report=console.print,
            )
        finally:
            http.stop()
    if stop.number is not None:
        raise Stopped(stop.number)
    raise SetupError("the HTTP server ended by itself")


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _base_name(base: str | None) -> str:
    """Name the base after its file without the ending, or its folder."""
    path = base_path(ModelConfig(base=base))
    assert path is not None, "only a factory goes without, and is refused before"
    path = root_of(path)
    return path.stem if path.suffix in (".ckpt", ".safetensors") else path.resolve().name
