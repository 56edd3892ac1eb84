"""`petrun serve`: a base and its deltas over HTTP, each delta a model of OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from petrun import console
from petrun.config.load import environment
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError, DataError, PromptTooLong, SetupError
from petrun.inference.assembly import base_path
from petrun.inference.session import OFF, Ask, Decoding, Session
from petrun.serve.openai import CompletionRequest, Done, Limits
from petrun.serve.request_queue import Piece, RequestQueue, work
from petrun.tensors.sharded.ranks import root_of
from petrun.train.stop import Stopped, stop_request

_SPARE_CONNECTIONS = 64
"""Beside those that wait for an answer: for /health, and to be told that too many wait."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says about the server."""

    host: str = "127.0.0.1"
    port: int = 8000
    key_env: str | None = None
    key_file: str | None = None
    without_key: bool = False
    """Serve without a key although others reach the address."""
    queue: int = 32
    """Requests that may wait."""
    batch_size: int = 8
    """Requests that are computed together."""
    max_tokens: int = 1024
    grace_seconds: float = 30.0


class SessionEngine:
    """A session as what answers requests. The base has the name of its folder."""

    def __init__(self, session: Session, base: str) -> None:
        self.session = session
        self.base = base
        if base in session.names:
            raise ConfigError(
                f"a delta is called {base}, as the base is", hint="Give it another name: --delta NAME=PATH."
            )

    @property
    def names(self) -> tuple[str, ...]:
        return self.session.names if self.session.multi_adapter.fixed else (*self.session.names, self.base)

    def check(self, wanted: CompletionRequest) -> int:
        try:
            return self.session.check(self._ask(wanted))
        except PromptTooLong:
            raise
        except DataError as error:
            if not wanted.chat or self.session.template(self._delta(wanted)).is_chat:
                raise
            raise DataError(
                f"{error.message}. The model {wanted.model} was not trained on messages: /v1/completions takes one prompt as text"
            ) from error

    def pieces(self, wanted: Sequence[CompletionRequest]) -> Iterator[Piece]:
        for piece in self.session.pieces([self._ask(each) for each in wanted]):
            found = piece.answer
            done = None
            if found is not None:
                done = Done(finish=found.finish, tokens=found.tokens, prompt_tokens=found.prompt_tokens)
            yield Piece(piece.index, piece.text, done, piece.scores)

    def _ask(self, wanted: CompletionRequest) -> Ask:
        how = Decoding(
            max_new_tokens=wanted.max_tokens,
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            repetition_penalty=wanted.repetition_penalty,
            stop=wanted.stop,
            seed=wanted.seed,
        )
        return Ask(
            wanted.prompt, self._delta(wanted), how, cells=wanted.cells, scored=wanted.scored, where="the prompt"
        )

    def _delta(self, wanted: CompletionRequest) -> str:
        return OFF if wanted.model == self.base else wanted.model


def run(
    base: str | None,
    deltas: Sequence[str],
    asked: Asked,
    *,
    model: str | None = None,
    template: str | None = None,
    alpha: float | None = None,
    device: str | None = None,
    settings: Sequence[str] = (),
) -> None:
    """Serve until a signal comes. Raises Stopped then, once what has been asked is answered or the grace is over.

    Raises ConfigError and SetupError before anything is loaded for an address or a key that cannot be used.
    """
    require_packages()
    # What needs the packages.
    from petrun.serve.app import Service, make_app
    from petrun.serve.server import HttpServer, bind

    _check(asked)
    key = read_key(asked)
    place = bind(asked.host, asked.port)
    request = stop_request()
    try:
        session = Session.open(
            base, deltas, model=model, template=template, alpha=alpha, device=device, batch_size=asked.batch_size,
            settings=settings,
        )  # fmt: skip
        engine = SessionEngine(session, _base_name(base))
        desk = RequestQueue(asked.queue)
        limits, local = Limits(most_tokens=asked.max_tokens), key is None and not asked.without_key
        app = make_app(Service(engine, desk, limits, key, local))
        most = asked.queue + asked.batch_size + _SPARE_CONNECTIONS
        http = HttpServer(app, place, grace_seconds=asked.grace_seconds, most_connections=most)
        with request.deferring("finishing what was asked"):
            http.start()
            host, port = place.getsockname()[:2]
            console.print(
                f"serving {', '.join(engine.names)} on http://{f'[{host}]' if ':' in host else host}:{port}/v1"
            )
            try:
                work(
                    desk,
                    engine,
                    asked.batch_size,
                    stopping=lambda: request.number is not None or not http.alive,
                    closing=http.refuse,
                    grace_seconds=asked.grace_seconds,
                    tell=console.print,
                )
            finally:
                http.stop()
    finally:
        place.close()
    if request.number is not None:
        raise Stopped(request.number)
    raise SetupError("the HTTP server ended by itself")


def require_packages() -> None:
    """Raises SetupError where the packages of the extra `serve` are not installed."""
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise SetupError(
            f"petrun serve needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}",
            hint="pip install 'petrun[serve]'",
        )


def read_key(asked: Asked) -> str | None:
    """The API key; None for none. Raises ConfigError for one that is empty or cannot be read, or none where others reach the server."""
    from petrun.serve.server import is_loopback

    if asked.key_env is not None and asked.key_file is not None:
        raise ConfigError("--api-key-env and --api-key-file: give one of them")
    if asked.key_env is not None:
        return _usable(environment(asked.key_env), f"--api-key-env {asked.key_env}: the variable")
    if asked.key_file is not None:
        try:
            found = Path(asked.key_file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"--api-key-file {asked.key_file}: cannot be read: {why}") from error
        return _usable(found, f"--api-key-file {asked.key_file}: the file")
    if not is_loopback(asked.host) and not asked.without_key:
        raise ConfigError(
            f"--host {asked.host}: other machines reach this address, and no API key is asked for",
            hint="Give --api-key-env NAME or --api-key-file FILE; --without-api-key serves everyone who reaches it.",
        )
    return None


def _usable(key: str | None, what: str) -> str:
    text = (key or "").strip()
    if not text:
        raise ConfigError(
            f"{what} is {'not set' if key is None else 'empty'}", hint="It holds the key that clients send."
        )
    if not text.isascii() or any(c.isspace() for c in text):
        raise ConfigError(f"{what} must hold one word of ASCII characters")
    return text


def _check(asked: Asked) -> None:
    """Raises ConfigError, once, for every number that makes no sense."""
    least = {"--queue": (asked.queue, 1), "--batch-size": (asked.batch_size, 1), "--max-tokens": (asked.max_tokens, 1)}
    wrong = [f"{flag} {value}: must be at least {low}" for flag, (value, low) in least.items() if value < low]
    if not 0 <= asked.grace_seconds < 1e6:
        wrong.append(f"--grace {asked.grace_seconds:g}: must be a number of seconds, 0 or more")
    if wrong:
        raise ConfigError("\n".join(wrong))


def _base_name(base: str | None) -> str:
    path = base_path(ModelConfig(base=base))
    assert path is not None, "only a factory goes without, and is refused before"
    path = root_of(path)
    return path.stem if path.suffix in (".ckpt", ".safetensors") else path.resolve().name
