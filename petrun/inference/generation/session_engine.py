"""Answer the HTTP server's completion requests with a Session."""

from __future__ import annotations

from petrun.errors import ConfigError, DataError, PromptTooLong
from petrun.evaluate.request import Step
from petrun.inference.generation.session import OFF, AnswerText, Decoding, PromptRequest, Session
from petrun.serve.openai import AnswerEnd, CompletionRequest
from petrun.serve.request_queue import StreamChunk


class SessionEngine:
    """Answers completion requests with a session. A model's name is that of its delta; the base has the name of its folder."""

    def __init__(self, session: Session, base: str, rows: int = 8, context: int = 4096) -> None:
        """`base`: the name of the base; `rows`: requests that are computed together; `context`: tokens of a prompt with its answer.
        Raises ConfigError where a delta has the base's name too."""
        self.session = session
        self.base = base
        self.batch = session.open_batch(rows, context)
        self._texts: dict[int, tuple[AnswerText, int]] = {}
        """Of each request that joined: its text, and the tokens of its prompt."""
        if base in session.names:
            raise ConfigError(
                f"a delta is called {base}, as the base is", hint="Give it another name: --delta NAME=PATH."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models: the deltas, and the base where it can be used without them."""
        return self.session.names if self.session.multi_adapter.fixed else (*self.session.names, self.base)

    def check(self, request: CompletionRequest) -> int:
        """Count the tokens of the prompt. Raises DataError for one that is empty or too long, ConfigError for an unknown model."""
        try:
            rendered = self.session.render(0, self._prompt_request(request), None)
            self.batch.check(rendered)
            return len(rendered.prompt)
        except PromptTooLong:
            raise
        except DataError as error:
            if not request.chat or self.session.template(self._delta(request)).is_chat:
                raise
            raise DataError(
                f"{error.message}. The model {request.model} was not trained on messages: /v1/completions takes one prompt as text"
            ) from error

    def warm_up(self) -> None:
        """Compile every graph that a request may need."""
        self.batch.warm_up()

    def join(self, request: CompletionRequest) -> int:
        """Begin a request. Returns its number in the chunks. Raises as `check`."""
        asked = self._prompt_request(request)
        text = self.session.answer_text(asked)
        rendered = self.session.render(0, asked, text.watch)
        number = self.batch.join(rendered)
        self._texts[number] = text, len(rendered.prompt)
        return number

    def leave(self, number: int) -> None:
        """Give up a request."""
        self._texts.pop(number, None)
        self.batch.leave(number)

    def step(self) -> list[StreamChunk]:
        """Compute a token of every request that joined."""
        return [self._chunk(step) for step in self.batch.step()]

    def _chunk(self, step: Step) -> StreamChunk:
        text, prompt_tokens = self._texts[step.number]
        if step.finish is not None or step.error is not None:
            del self._texts[step.number]
        if step.error is not None:
            return StreamChunk(step.number, "", error=step.error)
        chunk, end = text.chunk(step, prompt_tokens), None
        if chunk.answer is not None:
            answer = chunk.answer
            end = AnswerEnd(finish=answer.finish, tokens=answer.tokens, prompt_tokens=answer.prompt_tokens)
        return StreamChunk(chunk.index, chunk.text, end, chunk.scores)

    def _prompt_request(self, request: CompletionRequest) -> PromptRequest:
        decoding = Decoding(
            max_new_tokens=request.max_tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            repetition_penalty=request.repetition_penalty,
            stop=request.stop,
            seed=request.seed,
        )
        return PromptRequest(
            request.prompt,
            self._delta(request),
            decoding,
            cells=request.cells,
            scored=request.scored,
            where="the prompt",
        )

    def _delta(self, request: CompletionRequest) -> str:
        return OFF if request.model == self.base else request.model
