"""Generate text with a base and several deltas, and switch between them without compiling. For `petrun generate` and for programs.

from petrun import Decoding, Session

session = Session.open(base="./llama", deltas={"orders": "runs/lora-1", "chat": "runs/ia3-1"})
session.use("orders")
print(session.generate(["Extract the order. ..."])[0].text)
for text in session.stream("Hello", delta="chat", how=Decoding(temperature=0.7, seed=1)):
    print(text, end="")
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, overload

import numpy as np

from petrun.config.commands.text import SessionSettings
from petrun.data.chat.end_of_turn import NO_END_OF_TURN, EndOfTurn
from petrun.data.chat.messages import Message
from petrun.data.encode.prompt import prompt_ids
from petrun.data.templates.template import Template
from petrun.errors import ConfigError
from petrun.evaluate.continuous import ContinuousBatch
from petrun.evaluate.generate import TextGenerator
from petrun.evaluate.request import Request, Step
from petrun.evaluate.sampling import Sampling
from petrun.evaluate.text_stream import TextStream
from petrun.inference.generation.choices import choice_tokens
from petrun.inference.generation.multi_delta import MultiDeltaModel, load_deltas
from petrun.inference.multi_adapter import OFF
from petrun.tensors import Array

Prompt = str | Sequence[Message]
"""A text, or a conversation: [{"role": "user", "content": "..."}, ...]."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Settings that choose tokens and end an answer. Temperature 0 takes the likeliest token. Raises ConfigError."""

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
        # Sampling checks its numbers.
        self.sampling  # noqa: B018

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.seed, self.repetition_penalty)


@dataclass(frozen=True)
class PromptRequest:
    """A prompt, the delta that answers it (None or "off": the base), and how the answer is decoded."""

    prompt: Prompt
    delta: str | None = None
    how: Decoding = field(default_factory=Decoding)
    row: int = 0
    """A drawn answer depends on the seed and on this number."""
    cells: Mapping[str, object] = field(default_factory=dict)
    """Cells of the prompt's row beside the prompt: system, history, tools, enable_thinking, chat_template_kwargs."""
    scored: bool = False
    """Every token comes with its log probability."""
    where: str = ""
    """The prompt's name in messages; "": its number."""


Ask = PromptRequest
"""The name of PromptRequest that earlier documentation gave; kept for programs written after it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The complete answer to a prompt, and how it ended."""

    text: str
    finish: Literal["stop", "length"]
    """"stop": the model ended it, or a stop string did; "length": the limit of new tokens, or of the model's positions."""
    tokens: int
    """Tokens of the answer."""
    prompt_tokens: int


@dataclass(frozen=True)
class TextChunk:
    """The new text of one request's answer after one more token: "" while a character or a stop string may be incomplete.

    The last chunk holds the complete answer.
    """

    index: int
    """Position of the request in its call."""
    text: str
    answer: Answer | None = None
    scores: tuple[tuple[str, float], ...] = ()
    """Of a scored request: its new tokens as text, each with the natural logarithm of its probability."""


class AnswerText:
    """The text of one answer, chunk by chunk, while its tokens come."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str], scored: bool) -> None:
        self._text = TextStream(decode, stop)
        self._scores = TextStream(decode) if scored else None
        self._shown = ""
        self._tokens = 0

    def watch(self, token: int) -> bool:
        """Take a token. Returns whether a stop string came with it."""
        self._shown += self._text.push(token)
        return self._text.stopped

    def chunk(self, step: Step, prompt_tokens: int) -> TextChunk:
        """Return what a step adds: its token was given to `watch`."""
        self._tokens += step.token is not None
        shown, self._shown = self._shown, ""
        scores = self._score(step)
        if step.finish is None:
            return TextChunk(step.number, shown, scores=scores)
        shown += self._text.end()
        finish: Literal["stop", "length"] = "stop" if step.finish in ("eos", "stop") else "length"
        answer = Answer(text=self._text.text, finish=finish, tokens=self._tokens, prompt_tokens=prompt_tokens)
        return TextChunk(step.number, shown, answer, scores)

    def _score(self, step: Step) -> tuple[tuple[str, float], ...]:
        """Return the step's token as text with its log probability; the last token of a character has the character's text."""
        if self._scores is None or step.token is None or step.logprob is None:
            return ()
        text = self._scores.push(step.token)
        return ((text + (self._scores.end() if step.finish is not None else ""), step.logprob),)


class Stream(Iterator[str]):
    """Iterates over the text of one answer, chunk by chunk; `answer` is set after the last. `close()` gives up the rest."""

    def __init__(self, chunks: Generator[TextChunk, None, None]) -> None:
        self._chunks = chunks
        self.answer: Answer | None = None

    def __next__(self) -> str:
        while True:
            chunk = next(self._chunks)
            self.answer = chunk.answer or self.answer
            if chunk.text:
                return chunk.text

    def close(self) -> None:
        self._chunks.close()


class Session:
    """A net with deltas in it. One thread at a time; the requests of one call may use different deltas."""

    def __init__(self, model: MultiDeltaModel, batch_size: int = 8) -> None:
        """`batch_size`: most requests that are computed together."""
        self.loaded = model.loaded
        self.multi_adapter = model.multi_adapter
        self.tokenizer = model.tokenizer
        self._model = model
        self.current: str = self.names[0] if self.multi_adapter.fixed else OFF
        """The delta that answers where a request names none; "off": the base."""
        self._generator = TextGenerator(
            model.loaded.net,
            eos_ids=model.eos_ids,
            pad_id=model.loaded.pad_token_id,
            max_positions=model.loaded.max_positions,
            batch_size=batch_size,
            select=model.multi_adapter.select,
            steady=True,
            decode=model.tokenizer.decode,
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
        `batch_size`: most prompts that are computed together.
        Raises ConfigError for deltas that cannot be switched or one name for two, and what loading a base and a delta raises.
        """
        return cls.load(
            SessionSettings(
                base=base,
                deltas=deltas,
                model=model,
                template=template,
                alpha=alpha,
                device=device,
                batch_size=batch_size,
                settings=settings,
            )
        )

    @classmethod
    def load(cls, settings: SessionSettings) -> Session:
        """Load a base and deltas, as `open`."""
        return cls(load_deltas(settings), settings.batch_size)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the deltas."""
        return self.multi_adapter.names

    def use(self, name: str | None) -> None:
        """Answer with this delta from now on; None or "off": with the base alone. Raises ConfigError for an unknown name."""
        self.multi_adapter.index(name)
        self.current = OFF if name is None else name

    def template(self, delta: str | None = None) -> Template:
        """Return the template that renders prompts for a delta (None: the one in use)."""
        return self._model.templates[self._name(delta)]

    def check(self, request: PromptRequest) -> int:
        """Count the tokens of the prompt. Raises ConfigError for an unknown delta, DataError for a prompt that is empty or too long."""
        rendered = self.render(0, request, None)
        self._generator.check(rendered)
        return len(rendered.prompt)

    @overload
    def generate(  # type: ignore[overload-overlap]  # A text is also a sequence of texts.
        self,
        prompts: str,
        *,
        delta: str | None = None,
        how: Decoding | None = None,
        cells: Sequence[Mapping[str, object]] = (),
    ) -> Answer: ...

    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        delta: str | Sequence[str | None] | None = None,
        how: Decoding | None = None,
        cells: Sequence[Mapping[str, object]] = (),
    ) -> list[Answer]: ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        delta: str | Sequence[str | None] | None = None,
        how: Decoding | None = None,
        cells: Sequence[Mapping[str, object]] = (),
    ) -> Answer | list[Answer]:
        """Answer all prompts, in their order; a text by itself gets an answer by itself.

        `delta`: one for all (None: the one in use), or one for each prompt; `cells`: of each prompt, as PromptRequest.cells.
        Raises ConfigError for an unknown delta, and for a conversation that stands alone: each is an element of `prompts`.
        """
        if isinstance(prompts, str):
            return self.generate([prompts], delta=delta, how=how, cells=cells)[0]
        if any(isinstance(each, Mapping) for each in prompts):
            raise ConfigError(
                "a conversation is one of several prompts", hint="Give a list of them: generate([messages])"
            )
        chosen = [delta] * len(prompts) if delta is None or isinstance(delta, str) else list(delta)
        if len(chosen) != len(prompts):
            raise ConfigError(f"{len(chosen)} deltas for {len(prompts)} prompts")
        requests = [
            PromptRequest(prompt, self._name(name), how or Decoding(), row, beside)
            for row, (prompt, name, beside) in enumerate(
                zip(prompts, chosen, cells or [{}] * len(prompts), strict=True)
            )
        ]
        answers = {chunk.index: chunk.answer for chunk in self.chunks(requests) if chunk.answer is not None}
        return [answers[i] for i in range(len(requests))]

    def stream(
        self,
        prompt: Prompt,
        *,
        delta: str | None = None,
        how: Decoding | None = None,
        cells: Mapping[str, object] | None = None,
    ) -> Stream:
        """Answer one prompt, chunk by chunk, with a delta (None: the one in use). `cells`: as PromptRequest.cells."""
        return Stream(self.chunks([PromptRequest(prompt, self._name(delta), how or Decoding(), cells=cells or {})]))

    def chunks(self, requests: Sequence[PromptRequest]) -> Generator[TextChunk, None, None]:
        """Answer many requests together, chunk by chunk. Close the iterator to give up the rest.

        Raises ConfigError for an unknown delta, DataError for a prompt that is empty or too long, before anything is computed.
        """
        texts = [self.answer_text(request) for request in requests]
        rendered = [self.render(i, request, texts[i].watch) for i, request in enumerate(requests)]
        for steps in self._generator.stream(rendered):
            for step in steps:
                yield texts[step.number].chunk(step, len(rendered[step.number].prompt))

    pieces = chunks
    """The name of `chunks` that earlier documentation gave; kept for programs written after it."""

    def answer_text(self, request: PromptRequest) -> AnswerText:
        """Begin the text of a request's answer."""
        stop = (*request.how.stop, *self._end_of_turn(request.delta or OFF).texts)
        return AnswerText(self.tokenizer.decode, stop, request.scored)

    def choice_log_probs(self, requests: Sequence[PromptRequest], begin: str, choices: Sequence[str]) -> Array:
        """Return the log-probability of each choice where an answer begins with `begin`: (n, C) float64, in one pass over the prompts.

        Raises ConfigError for choices that do not differ in their last token alone, for an encoder-decoder, and otherwise as `chunks`.
        """
        if self.loaded.is_encoder_decoder:
            raise ConfigError(
                "an encoder-decoder is given a prompt as its source, behind which no answer can be begun for it",
                hint="Let it write the whole answer: --by generated.",
            )
        before, ids = choice_tokens(self.tokenizer, begin, choices)
        rendered = [self.render(i, request, None) for i, request in enumerate(requests)]
        asked = [
            replace(
                one, prompt=np.concatenate([one.prompt, before]).astype(np.int32), limit=1, sampling=None, choices=ids
            )
            for one in rendered
        ]
        found = np.zeros((len(requests), len(choices)))
        for steps in self._generator.stream(asked):
            for step in steps:
                found[step.number] = step.choices
        return found

    def open_batch(self, rows: int, context: int) -> ContinuousBatch:
        """Make room for answers that come and go: as many `rows`, each of at most `context` tokens with its prompt."""
        return ContinuousBatch(self._generator, rows, context)

    def _name(self, delta: str | None) -> str:
        name = self.current if delta is None else delta
        self.multi_adapter.index(name)
        return name

    def render(self, number: int, request: PromptRequest, watch: Callable[[int], bool] | None) -> Request:
        """Render and tokenise the prompt of a request. `number`: its position in the call; `watch`: as Request.watch."""
        name = OFF if request.delta is None else request.delta
        adapter = self.multi_adapter.index(name)
        where = request.where or f"prompt {number + 1}"
        source = self._model.sources.get(name, "prompt")
        template = self._model.templates[name]
        ids = prompt_ids(
            request.prompt,
            self.tokenizer,
            template,
            where,
            request.cells,
            source=source,
            is_source=self.loaded.is_encoder_decoder,
        )
        return Request(
            prompt=np.array(ids, np.int32),
            limit=request.how.max_new_tokens,
            row=request.row,
            sampling=request.how.sampling,
            adapter=adapter,
            watch=watch,
            end_of_turn=self._end_of_turn(name),
            scored=request.scored,
            where=where,
        )

    def _end_of_turn(self, name: str) -> EndOfTurn:
        return self._model.ends_of_turn.get(name, NO_END_OF_TURN)


__all__ = ["OFF", "Answer", "Ask", "Decoding", "Prompt", "PromptRequest", "Session", "Stream", "TextChunk"]
