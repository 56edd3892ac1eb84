"""Answer the HTTP server's completion requests with a Session."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from petrun.errors import ConfigError, DataError, PromptTooLong
from petrun.inference.generation.session import OFF, Decoding, PromptRequest, Session
from petrun.serve.openai import AnswerEnd, CompletionRequest
from petrun.serve.request_queue import StreamChunk


class SessionEngine:
    """Answers completion requests with a session. A model's name is that of its delta; the base has the name of its folder."""

    def __init__(self, session: Session, base: str) -> None:
        """`base`: the name of the base. Raises ConfigError where a delta has it too."""
        self.session = session
        self.base = base
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
            return self.session.check(self._prompt_request(request))
        except PromptTooLong:
            raise
        except DataError as error:
            if not request.chat or self.session.template(self._delta(request)).is_chat:
                raise
            raise DataError(
                f"{error.message}. The model {request.model} was not trained on messages: /v1/completions takes one prompt as text"
            ) from error

    def stream(self, requests: Sequence[CompletionRequest]) -> Generator[StreamChunk, None, None]:
        """Answer all requests together, chunk by chunk. Closing the generator gives up the rest."""
        for chunk in self.session.chunks([self._prompt_request(request) for request in requests]):
            answer, end = chunk.answer, None
            if answer is not None:
                end = AnswerEnd(finish=answer.finish, tokens=answer.tokens, prompt_tokens=answer.prompt_tokens)
            yield StreamChunk(chunk.index, chunk.text, end, chunk.scores)

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
