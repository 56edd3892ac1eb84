"""`petrun generate` and `petrun serve`: text from a base and several deltas; pictures are in drawing.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from petrun.config.choices import run_choices
from petrun.config.commands.drawing import DrawingSettings
from petrun.config.options import MODEL, RUN, SettingField, like, option, sets_option
from petrun.errors import ConfigError
from petrun.typing import JsonObject

TEXT = "Text"
SERVER = "Server"
_SPARE_CONNECTIONS = 64
"""Connections beside those that wait for an answer: for /health, and for errors that say that too many wait."""


def _deltas() -> SettingField:
    return option(
        "--delta",
        "Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint. Repeatable; called by the name of its "
        "file or folder, or as you name it.",
        MODEL,
        default=(),
        metavar="[NAME=]PATH",
        choices=run_choices,
    )


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """The base and the deltas that a session is loaded from, and how their prompts are written."""

    base: str | None = like("model.base")
    """None: the embedded base."""
    deltas: Mapping[str, str] | Sequence[str] = ()
    """Name -> path, or paths, each named by its file or folder or written as NAME=PATH."""
    model: str | None = like("model.family")
    quant: str | None = like("model.quant")
    """int8, nf4 or none; None: as the deltas were trained, else as the base's files are."""
    template: str | None = option(
        "--template",
        "Prompt template for all: a jinja2 file, plain, alpaca, chatml or chat. Default: each delta's own.",
        MODEL,
    )
    """Template of every delta; None: each delta's own, else the tokenizer's chat template, else the text unchanged."""
    alpha: float | None = option(
        "--alpha", "LoRA alpha of a delta whose file does not say it (MindPet checkpoints).", MODEL
    )
    device: str | None = like("device")
    no_compile_cache: bool = like("compile_cache", default=False)
    batch_size: int = 8
    """Most prompts that are computed together."""
    settings: Sequence[str] = sets_option()
    """KEY=VALUE, as --set."""


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(SessionSettings, DrawingSettings):
    """The prompts, and how their answers are decoded or their pictures drawn."""

    deltas: tuple[str, ...] = _deltas()
    use: tuple[str, ...] = option(
        "--use",
        "Name of the delta to begin with, or off. Default: the first. For pictures also with weights, NAME:0.8 or NAME:0.8,OTHER:0.4, and "
        "repeatable: each prompt is drawn with each.",
        MODEL,
        default=(),
    )
    prompt: tuple[str, ...] = option(
        "--prompt", "Answer or draw this and end, instead of reading lines from you. Repeatable.", TEXT, default=()
    )
    prompts: str | None = option(
        "--prompts",
        "Answer or draw every line of this file and end; in a .jsonl file {prompt: ...} or {messages: [...]}, and perhaps delta: NAME, "
        "system, tools, enable_thinking and chat_template_kwargs.",
        TEXT,
    )
    as_json: bool = option("--json", "Print one JSON object an answer.", TEXT, default=False)
    max_new_tokens: int = option("--max-new-tokens", "Longest answer in tokens. Default 128.", TEXT, default=128)
    temperature: float = option(
        "--temperature",
        "Draw from softmax(logits / temperature); 0 takes the likeliest. Default 0.",
        TEXT,
        default=0.0,
    )
    top_k: int = option("--top-k", "Draw from the k likeliest tokens; 0: from all. Default 0.", TEXT, default=0)
    top_p: float = option(
        "--top-p",
        "Draw from the fewest tokens that have this probability together. Default 1.",
        TEXT,
        default=1.0,
    )
    repetition_penalty: float = option(
        "--repetition-penalty",
        "Over 1: tokens that are there already become less likely. Default 1.",
        TEXT,
        default=1.0,
    )
    stop: tuple[str, ...] = option("--stop", "End an answer before this text. Repeatable.", TEXT, default=())
    seed: int = option(
        "--seed", "Seed of the tokens that are drawn, or of the first picture. Default 0.", TEXT, default=0
    )
    no_history: bool = option(
        "--no-history", "Every line is a conversation of its own, under a chat template too.", TEXT, default=False
    )
    batch_size: int = option(
        "--batch-size", "Most prompts answered, or pictures drawn, together. Default 8.", RUN, default=8
    )

    def decoding(self) -> JsonObject:
        """How tokens are chosen, as the fields of a session's Decoding."""
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "stop", "seed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The address, the key and the limits of a server."""

    host: str = option("--host", "Address to listen at.", SERVER, default="127.0.0.1", shows_default=True)
    port: int = option("--port", "Port; 0 takes a free one.", SERVER, default=8000, shows_default=True)
    key_env: str | None = option(
        "--api-key-env", "Environment variable with the key that clients must send.", SERVER, metavar="NAME"
    )
    key_file: str | None = option("--api-key-file", "File with that key.", SERVER, metavar="FILE")
    without_key: bool = option("--without-api-key", "Serve other machines without a key.", SERVER, default=False)
    queue: int = option("--queue", "Requests that may wait; more get status 429. Default 32.", SERVER, default=32)
    batch_size: int = option(
        "--batch-size", "Requests that are computed together, each by its delta. Default 16.", SERVER, default=16
    )
    max_tokens: int = option(
        "--max-tokens", "Most new tokens that a request may ask for. Default 1024.", SERVER, default=1024
    )
    context: int = option(
        "--context",
        "Tokens kept of each request, prompt and answer together, up to the model's positions. Default 4096.",
        SERVER,
        default=4096,
    )
    grace_seconds: float = option(
        "--grace", "Seconds that requests may still take after SIGTERM. Default 30.", SERVER, default=30.0
    )

    @property
    def most_connections(self) -> int:
        return self.queue + self.batch_size + _SPARE_CONNECTIONS

    def check(self) -> None:
        """Raises ConfigError, once, for every number that is out of range."""
        positive = {"--queue": self.queue, "--batch-size": self.batch_size, "--max-tokens": self.max_tokens}
        positive["--context"] = self.context
        wrong = [f"{flag} {value}: must be at least 1" for flag, value in positive.items() if value < 1]
        if not 0 <= self.grace_seconds < 1e6:
            wrong.append(f"--grace {self.grace_seconds:g}: must be a number of seconds, 0 or more")
        if wrong:
            raise ConfigError("\n".join(wrong))


@dataclass(frozen=True, kw_only=True)
class ServeSettings(SessionSettings, ServerSettings):
    """A server, and the base and deltas that it answers with."""

    deltas: tuple[str, ...] = _deltas()
    batch_size: int = option(
        "--batch-size", "Requests that are computed together, each by its delta. Default 16.", SERVER, default=16
    )
