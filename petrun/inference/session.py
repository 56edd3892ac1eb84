"""Text from a base and several deltas, switched between without compiling: what `petrun generate` and programs use.

from petrun.inference.session import Session

session = Session.open(base="./llama", deltas={"orders": "runs/lora-1", "chat": "runs/ia3-1"})
session.use("orders")
print(session.generate(["Extract the order. ..."])[0].text)
for piece in session.stream("Hello", delta="chat", how=Decoding(temperature=0.7, seed=1)):
    print(piece, end="")
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from petrun.data.chat.end_of_turn import NO_ENDING, Ending
from petrun.data.chat.messages import Message
from petrun.data.encode.prompt import prompt_ids
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import ConfigError
from petrun.evaluate.generate import Generator as Writer
from petrun.evaluate.generate import Request, Step
from petrun.evaluate.sampling import Sampling
from petrun.evaluate.text_stream import TextStream
from petrun.inference.multi_adapter import OFF, MultiAdapter
from petrun.inference.multi_delta import open_deltas
from petrun.models.base import LoadedModel

Prompt = str | Sequence[Message]
"""A text, or a conversation: [{"role": "user", "content": "..."}, ...]."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an answer is taken. Temperature 0: the likeliest token each time. Raises ConfigError."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens = {self.max_new_tokens} is below 1")
        if "" in self.stop:
            raise ConfigError("stop: an empty text stops everything", hint="Give a text, or leave it out.")
        # Says what is wrong with the numbers.
        self.sampling  # noqa: B018

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.seed, self.repetition_penalty)


@dataclass(frozen=True)
class Ask:
    """One prompt, which delta answers it (None or "off": the base), and how."""

    prompt: Prompt
    delta: str | None = None
    how: Decoding = field(default_factory=Decoding)
    row: int = 0
    """Beside the seed, what a drawn answer depends on."""
    cells: Mapping[str, Any] = field(default_factory=dict)
    """What a row of a file may hold beside its prompt: system, history, tools, enable_thinking, chat_template_kwargs."""
    scored: bool = False
    """Every token comes with its log probability."""
    where: str = ""
    """What messages call the prompt; "": by its number."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    text: str
    finish: Literal["stop", "length"]
    """"stop": the model ended it, or a stop string did; "length": the limit of new tokens, or of the model's positions."""
    tokens: int
    """Tokens of the answer."""
    prompt_tokens: int


@dataclass(frozen=True)
class Piece:
    """What a token brought for the ask of this number: text, "" while a character or a stop string may be half there; and with the
    last piece the whole answer."""

    index: int
    text: str
    answer: Answer | None = None
    scores: tuple[tuple[str, float], ...] = ()
    """Of a scored ask: its new tokens as text, each with the log of its probability."""


class Stream(Iterator[str]):
    """Pieces of one answer; `answer` is the whole once they have all come. `close()` gives up the rest."""

    def __init__(self, pieces: Generator[Piece, None, None]) -> None:
        self._pieces = pieces
        self.answer: Answer | None = None

    def __next__(self) -> str:
        while True:
            piece = next(self._pieces)
            self.answer = piece.answer or self.answer
            if piece.text:
                return piece.text

    def close(self) -> None:
        self._pieces.close()


class Session:
    """A net with deltas in it. One thread at a time; different asks of one call may use different deltas."""

    def __init__(
        self,
        loaded: LoadedModel,
        multi_adapter: MultiAdapter,
        tokenizer: Tokenizer,
        templates: Mapping[str, Template],
        ends: Sequence[int],
        batch_size: int,
        endings: Mapping[str, Ending] | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        """`ends`: tokens that end any answer; `endings`: what else ends those of a delta, or of the base ("off"); `sources`: the column
        that a delta's template reads a prompt from, where it is not `prompt`."""
        self.loaded = loaded
        self.multi_adapter = multi_adapter
        self.tokenizer = tokenizer
        self._templates = dict(templates)
        self._endings = dict(endings or {})
        self._sources = dict(sources or {})
        self.current: str = multi_adapter.names[0] if multi_adapter.fixed else OFF
        """The delta in use where an ask names none; "off": the base."""
        self._writer = Writer(
            loaded.net,
            eos_ids=ends,
            pad_id=loaded.pad_token_id,
            max_positions=loaded.max_positions,
            batch_size=batch_size,
            select=multi_adapter.select,
            steady=True,
            decode=tokenizer.decode,
        )

    @classmethod
    def open(
        cls,
        base: str | None = None,
        deltas: Mapping[str, str] | Sequence[str] = (),
        *,
        model: str | None = None,
        template: str | None = None,
        alpha: float | None = None,
        device: str | None = None,
        batch_size: int = 8,
        settings: Sequence[str] = (),
    ) -> Session:
        """Load a base (None: the embedded one) and deltas: name -> path, or paths, named by their files and folders, or NAME=PATH.

        `model`, `template`, `alpha`, `device`, `settings`: as --model, --template, --alpha, --device and --set. `template`: of all;
        default: each delta's own, the tokenizer's chat template where there is none, else the text as it is.
        `batch_size`: most asks that are computed together.
        Raises ConfigError for deltas that cannot be switched or one name for two, and what loading a base and a delta raises.
        """
        opened = open_deltas(
            base,
            deltas,
            model=model,
            template=template,
            alpha=alpha,
            device=device,
            rows=batch_size,
            settings=settings,
        )
        return cls(
            opened.loaded,
            opened.multi_adapter,
            opened.tokenizer,
            opened.templates,
            opened.ends,
            batch_size,
            opened.endings,
            opened.sources,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the deltas."""
        return self.multi_adapter.names

    def use(self, name: str | None) -> None:
        """Answer with this delta from now on; None or "off": with the base alone. Raises ConfigError for an unknown name."""
        self.multi_adapter.index(name)
        self.current = OFF if name is None else name

    def template(self, delta: str | None = None) -> Template:
        """The template that prompts get with a delta (None: the one in use)."""
        return self._templates[self._name(delta)]

    def check(self, ask: Ask) -> int:
        """How many tokens the prompt has. Raises ConfigError for an unknown delta, DataError for a prompt that is empty or too long."""
        request = self._request(0, ask, None)
        self._writer.check(request)
        return len(request.prompt)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        delta: str | Sequence[str | None] | None = None,
        how: Decoding | None = None,
        cells: Sequence[Mapping[str, Any]] = (),
    ) -> list[Answer]:
        """Answers in the order of the prompts. `delta`: one for all (None: the one in use), or one for each prompt; `cells`: what each
        prompt has beside it (Ask.cells), or nothing.
        """
        chosen = [delta] * len(prompts) if delta is None or isinstance(delta, str) else list(delta)
        if len(chosen) != len(prompts):
            raise ConfigError(f"{len(chosen)} deltas for {len(prompts)} prompts")
        asks = [
            Ask(prompt, self._name(name), how or Decoding(), row, beside)
            for row, (prompt, name, beside) in enumerate(
                zip(prompts, chosen, cells or [{}] * len(prompts), strict=True)
            )
        ]
        answers = {piece.index: piece.answer for piece in self.pieces(asks) if piece.answer is not None}
        return [answers[i] for i in range(len(asks))]

    def stream(
        self,
        prompt: Prompt,
        *,
        delta: str | None = None,
        how: Decoding | None = None,
        cells: Mapping[str, Any] | None = None,
    ) -> Stream:
        """The answer to one prompt, piece by piece, by a delta (None: the one in use). `cells`: as Ask.cells."""
        return Stream(self.pieces([Ask(prompt, self._name(delta), how or Decoding(), cells=cells or {})]))

    def pieces(self, asks: Sequence[Ask]) -> Generator[Piece, None, None]:
        """What comes for many asks, as it comes: those of one batch together. Close the iterator to give up the rest.

        Raises ConfigError for an unknown delta, DataError for a prompt that is empty or too long, before anything is computed.
        """
        texts = [
            TextStream(self.tokenizer.decode, (*ask.how.stop, *self._ending(ask.delta or OFF).texts)) for ask in asks
        ]
        scored = [TextStream(self.tokenizer.decode) if ask.scored else None for ask in asks]
        shown = [""] * len(asks)

        def watch(index: int) -> Any:
            def add(token: int) -> bool:
                shown[index] += texts[index].push(token)
                return texts[index].stopped

            return add

        requests = [self._request(i, ask, watch(i)) for i, ask in enumerate(asks)]
        counts = [0] * len(asks)
        for steps in self._writer.stream(requests):
            for step in steps:
                i = step.number
                counts[i] += step.token is not None
                text, shown[i] = shown[i], ""
                scores = _scores(scored[i], step)
                if step.finish is None:
                    yield Piece(i, text, scores=scores)
                    continue
                text += texts[i].end()
                finish: Literal["stop", "length"] = "stop" if step.finish in ("eos", "stop") else "length"
                answer = Answer(
                    text=texts[i].text, finish=finish, tokens=counts[i], prompt_tokens=len(requests[i].prompt)
                )
                yield Piece(i, text, answer, scores)

    def _name(self, delta: str | None) -> str:
        name = self.current if delta is None else delta
        self.multi_adapter.index(name)
        return name

    def _request(self, index: int, ask: Ask, watch: Any) -> Request:
        name = OFF if ask.delta is None else ask.delta
        index = self.multi_adapter.index(name)
        where = ask.where or f"prompt {index + 1}"
        source = self._sources.get(name, "prompt")
        ids = prompt_ids(ask.prompt, self.tokenizer, self._templates[name], where, ask.cells, source=source)
        return Request(
            prompt=np.array(ids, np.int32),
            limit=ask.how.max_new_tokens,
            row=ask.row,
            sampling=ask.how.sampling,
            adapter=index,
            watch=watch,
            ending=self._ending(name),
            scored=ask.scored,
            where=where,
        )

    def _ending(self, name: str) -> Ending:
        return self._endings.get(name, NO_ENDING)


def _scores(stream: TextStream | None, step: Step) -> tuple[tuple[str, float], ...]:
    """The step's token as text with its log probability; of a character of several tokens the last one has it."""
    if stream is None or step.token is None or step.logprob is None:
        return ()
    text = stream.push(step.token)
    return ((text + (stream.end() if step.finish is not None else ""), step.logprob),)


__all__ = ["OFF", "Answer", "Ask", "Decoding", "Piece", "Prompt", "Session", "Stream"]
