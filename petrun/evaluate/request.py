"""Describe a prompt that is to be answered, and hold the answer while its tokens come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from petrun.data.chat.end_of_turn import NO_END_OF_TURN, EndOfTurn
from petrun.errors import PetrunError
from petrun.evaluate.row_formulas import log_softmax
from petrun.evaluate.sampling import Sampling
from petrun.evaluate.stop_strings import StopStrings
from petrun.tensors import Array

Finish = Literal["eos", "stop", "length", "positions"]
"""Reason why an answer ended: an end-of-sequence token, the caller or a stop string, the limit of new tokens, the model's positions."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt, and the settings of its answer."""

    prompt: Array
    """(t,) int32."""
    limit: int
    """Most new tokens."""
    row: int
    """Its number in the data, for messages and sampling."""
    sampling: Sampling | None = None
    """None: the likeliest token."""
    adapter: int = 0
    """Index of the adapter that answers; 0: the base."""
    watch: Callable[[int], bool] | None = None
    """Called with every new token; True ends the answer with it."""
    end_of_turn: EndOfTurn = NO_END_OF_TURN
    """Tokens and texts that end it, beside the generator's own tokens."""
    scored: bool = False
    """Every step gives the probability of its token."""
    choices: tuple[int, ...] = ()
    """Every step gives the probabilities of these tokens."""
    where: str = ""
    """Overrides `label`."""

    @property
    def label(self) -> str:
        """Name of the prompt in messages."""
        return self.where or f"row {self.row}"


class Step(NamedTuple):
    """One event of a request: a token, the end, or both."""

    number: int
    """Index of the request."""
    token: int | None
    finish: Finish | None
    logprob: float | None = None
    """Of a scored request: log of the token's probability under the model, before temperature and the like."""
    error: PetrunError | None = None
    """Reason why it could not be answered; the request has ended."""
    choices: tuple[float, ...] = ()
    """Logs of the probabilities of the request's choices, as `logprob`."""


class GrowingAnswer:
    """The answer to one request, or to several equal ones, while its tokens come."""

    def __init__(
        self,
        request: Request,
        index: int,
        *,
        left: int,
        eos_ids: frozenset[int],
        decode: Callable[[Sequence[int]], str] | None,
    ) -> None:
        """`index`: of the request among the caller's; `left`: tokens that the model's positions leave; `eos_ids`, `decode`: as
        TextGenerator's."""
        self.request = request
        self.indices = [index]
        """Indices of the caller's requests that are equal to this one."""
        self.limit = min(left, request.limit)
        self.at_limit: Finish = "positions" if self.limit < request.limit else "length"
        drawn = not (request.sampling is None or request.sampling.greedy)
        self.needs_logits = request.scored or bool(request.choices) or drawn
        """The graph's own choice is not enough."""
        self.tokens: list[int] = []
        self.finish: Finish | None = None
        self._stream = None if request.sampling is None else request.sampling.stream(request.row)
        self._eos_ids = eos_ids
        self._decode = decode

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    def advance(self, likeliest: int, logits: Array | None) -> list[Step]:
        """Take the next token: the likeliest, or as the request says from (V,) logits. Returns the steps of the requests."""
        token = likeliest if logits is None or not self.needs_logits else self._take(logits)
        new = self._add(token)
        logprob = None
        if self.request.scored and new is not None and logits is not None:
            logprob = float(log_softmax(logits)[token])
        choices: tuple[float, ...] = ()
        if self.request.choices and logits is not None:
            choices = tuple(log_softmax(logits)[list(self.request.choices)].tolist())
        return [Step(i, new, self.finish, logprob, choices=choices) for i in self.indices]

    def _take(self, logits: Array) -> int:
        sampling = self.request.sampling
        if sampling is None or self._stream is None:
            return int(logits.argmax())
        return sampling.take(logits, self._stream, [*self.request.prompt.tolist(), *self.tokens])

    def _add(self, token: int) -> int | None:
        """Record the next token and whether it ends the answer. Returns None for a token that only ends it."""
        if token in self._eos_ids or token in self.request.end_of_turn.ids:
            self.finish = "eos"
            return None
        self.tokens.append(token)
        # `watch` gets every token, the last one too.
        if (self.request.watch is not None and self.request.watch(token)) or self._says_end():
            self.finish = "stop"
        elif len(self.tokens) == self.limit:
            self.finish = self.at_limit
        return token

    def _says_end(self) -> bool:
        """Return whether the last tokens spell a text that ends the answer."""
        end_of_turn = self.request.end_of_turn
        if not end_of_turn.texts or self._decode is None:
            return False
        return StopStrings(end_of_turn.texts).find(self._decode(self.tokens[-end_of_turn.window :])) is not None
