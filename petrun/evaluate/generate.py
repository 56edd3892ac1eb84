"""Generate answers with a decoder: many prompts at a time, with a cache of keys and values, greedy or sampled.

B batch, T tokens of the longest prompt, S slots of the cache, V vocabulary. Prompts are padded on the left to one of a few widths,
so that few graphs are compiled, and rows of similar length share a batch. A row ends at an end-of-sequence token, at its limit of
new tokens, or where the model has no positions left; its batch ends when all its rows have. Greedy answers equal those of decoding
without a cache, one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.data.batches.buckets import plan_shapes
from petrun.data.batches.collate import positions
from petrun.data.chat.end_of_turn import NO_END_OF_TURN, EndOfTurn
from petrun.errors import ConfigError, DataError, ModelError, PromptTooLong
from petrun.evaluate.row_formulas import log_softmax
from petrun.evaluate.sampling import Sampling
from petrun.evaluate.score import Progress, counter, eval_mode, not_finite
from petrun.evaluate.stop_strings import StopStrings
from petrun.models.decoding import DecodeStep, PrefillStep
from petrun.models.families import spell_families
from petrun.tensors import Array
from petrun.typing import Cell

_SLOTS_MULTIPLE = 16
_PROMPTS_A_SHAPE = 256
"""A further prompt width costs two compilations, which pay off after some hundred prompts."""
_MOST_SHAPES = 4
_NARROWEST = 32
"""Least prompt width, and least slots after it, where shapes should stay the same."""

__all__ = ["Generation", "Request", "Sampling", "Step", "TextGenerator"]


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


@dataclass(frozen=True)
class Generation:
    """The answer to one prompt."""

    tokens: tuple[int, ...]
    """New tokens, without the one that ended the sequence."""
    finish: Finish


class Pick(nn.Cell):
    """A step of the net and, in the same graph, the reduction of its logits for the host.

    Inputs: the step's. Returns: greedy: argmax (B,) int32, else logits (B, V) float32; whether all of a row's logits are finite (B,)
    bool; then the caches.
    """

    def __init__(self, step: Cell, greedy: bool) -> None:
        super().__init__(auto_prefix=False)
        self.step = step
        self.greedy = greedy

    def construct(self, *args: Tensor) -> Tensor:
        out = self.step(*args)
        logits = out[0]
        finite = ops.isfinite(logits).all(-1)
        picked = ops.argmax(logits, -1).astype(ms.int32) if self.greedy else logits
        return (picked, finite, *out[1:])


class _Row:
    """A distinct request that is being answered."""

    def __init__(self, request: Request, index: int, left: int) -> None:
        self.request = request
        self.indices = [index]
        """Indices of the caller's requests that are equal to this one."""
        self.limit = min(left, request.limit)
        self.at_limit: Finish = "positions" if self.limit < request.limit else "length"
        self.greedy = not request.scored and (request.sampling is None or request.sampling.greedy)
        """The graph's own choice is enough."""
        self.stream = None if request.sampling is None else request.sampling.stream(request.row)
        self.tokens: list[int] = []
        self.finish: Finish | None = None

    @property
    def length(self) -> int:
        return len(self.request.prompt)

    def take(self, picked: Array, greedy: bool) -> int:
        """Take the next token from the output of `Pick` for this row."""
        if greedy:
            return int(picked)
        sampling = self.request.sampling
        if sampling is None or self.stream is None:
            return int(picked.argmax())
        return sampling.take(picked, self.stream, [*self.request.prompt.tolist(), *self.tokens])


class TextGenerator:
    """Generates with one net again and again without compiling again. Attach deltas before a call, not during it.

    Inputs: `eos_ids`, tokens of which any ends a row; `max_positions`, the most tokens that prompt and answer may have together
    (None: no limit); `batch_size`, B; `select`, called with a batch's adapter indices before the net computes with them; `steady`:
    shapes are powers of two, so that calls with a prompt or a few share graphs; `decode`, tokens -> text, for ends of turn that are texts.
    Raises ModelError for a net that has no cache.
    """

    def __init__(
        self,
        net: Cell,
        *,
        eos_ids: Iterable[int],
        pad_id: int = 0,
        max_positions: int | None = None,
        batch_size: int = 16,
        select: Callable[[Sequence[int]], None] | None = None,
        steady: bool = False,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        if not (hasattr(net, "prefill") and hasattr(net, "decode")):
            raise ModelError(
                f"{type(net).__name__} cannot generate: it has no prefill and decode with a key/value cache",
                hint=f"Generation needs a {spell_families('instruct')} family model; leave out metrics that generate, or use --task lm.",
            )
        self.net = net
        self.eos_ids = frozenset(eos_ids)
        self.pad_id = pad_id
        self.max_positions = max_positions
        self.batch_size = batch_size
        self.select = select
        self.steady = steady
        self.decode = decode
        self._parameters: tuple[int, ...] = ()
        self._steps: dict[tuple[int, bool], Pick] = {}

    def __call__(
        self,
        prompts: Sequence[Array | Sequence[int]],
        max_new_tokens: int,
        *,
        sampling: Sampling | None = None,
        rows: Sequence[int] | None = None,
        adapters: Sequence[int] | None = None,
        ends_of_turn: Sequence[EndOfTurn] | None = None,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Return the answers in the order of the prompts, each a 1-D sequence of token ids. Equal prompts are answered once, unless
        sampled.

        Inputs: `rows`, the prompts' numbers in the data, for messages and sampling (default: 0, 1, ...); `adapters`, the index of each
        (default: the base); `ends_of_turn`, the tokens and texts that end each answer beside `eos_ids` (default: none); `progress` is
        called with (prompts answered, all prompts).
        Raises: DataError for a prompt that is empty or fills all positions; WeightsError naming a row whose logits are not finite.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens = {max_new_tokens} is below 1")
        requests = [
            Request(
                prompt=np.asarray(prompt, np.int32),
                limit=max_new_tokens,
                row=number,
                sampling=sampling,
                adapter=adapter,
                end_of_turn=end_of_turn,
            )
            for prompt, number, adapter, end_of_turn in zip(
                prompts,
                range(len(prompts)) if rows is None else rows,
                adapters or [0] * len(prompts),
                ends_of_turn or [NO_END_OF_TURN] * len(prompts),
                strict=True,
            )
        ]
        tell = counter(progress, len(prompts))
        tokens: list[list[int]] = [[] for _ in requests]
        ends: dict[int, Finish] = {}
        for steps in self.stream(requests):
            for step in steps:
                if step.token is not None:
                    tokens[step.number].append(step.token)
                if step.finish is not None:
                    ends[step.number] = step.finish
                    tell(1)
        return [Generation(tuple(tokens[i]), ends[i]) for i in range(len(prompts))]

    def check(self, request: Request) -> int:
        """Count the tokens that the positions leave for an answer. Raises DataError as a call does."""
        if len(request.prompt) == 0:
            raise DataError(
                f"{request.label}: the prompt holds no tokens", hint="Give the row a text, or a --template."
            )
        left = request.limit if self.max_positions is None else self.max_positions - len(request.prompt)
        if left < 1:
            raise PromptTooLong(
                f"{request.label}: a prompt of {len(request.prompt)} tokens leaves no room for an answer in the model's "
                f"{self.max_positions} positions",
                hint="Shorten the prompt, or cut it with --seq-len.",
            )
        return left

    def stream(self, requests: Sequence[Request]) -> Iterator[list[Step]]:
        """Yield the events of each step of a batch, as they come. To stop half-way, close the iterator. Raises as a call does."""
        todo = self._rows(requests)
        if not todo:
            return
        self._renew()
        self.net.check_slots(max(r.length + r.limit for r in todo))
        widths, slots, size = self._shapes(todo)
        with eval_mode(self.net):
            for narrower, width in zip((0, *widths), widths, strict=False):
                group = [r for r in todo if narrower < r.length <= width]
                for start in range(0, len(group), size):
                    yield from self._batch(group[start : start + size], size, width, slots)

    def _rows(self, requests: Sequence[Request]) -> list[_Row]:
        """Return the distinct requests, those with the shortest prompts first."""
        found: dict[Hashable, _Row] = {}
        for i, request in enumerate(requests):
            alone = request.sampling is not None or request.watch is not None or request.scored
            key = i if alone else (request.prompt.tobytes(), request.adapter, request.limit, request.end_of_turn)
            if key in found:
                found[key].indices.append(i)
            else:
                found[key] = _Row(request, i, self.check(request))
        return sorted(found.values(), key=lambda r: r.length)

    def _shapes(self, todo: list[_Row]) -> tuple[tuple[int, ...], int, int]:
        """Return the widths of prompts, the slots after them, and the rows of a batch."""
        lengths = [r.length for r in todo]
        longest = max(r.limit for r in todo)
        if self.steady:
            widths = tuple(sorted({_power(length, _NARROWEST) for length in lengths}))
            return widths, _power(longest, _NARROWEST), min(self.batch_size, _power(len(todo), 1))
        shapes = min(_MOST_SHAPES, 1 + len(todo) // _PROMPTS_A_SHAPE)
        widths = plan_shapes(lengths, shapes, max(lengths) + _SLOTS_MULTIPLE)
        slots = -(-longest // _SLOTS_MULTIPLE) * _SLOTS_MULTIPLE
        return widths, slots, min(self.batch_size, len(todo))

    def _renew(self) -> None:
        """Drop this object's graphs where a delta was attached or detached since the last call."""
        parameters = tuple(id(p) for p in self.net.get_parameters())
        if parameters != self._parameters:
            self._parameters = parameters
            self._steps.clear()

    def _step(self, slots: int, greedy: bool) -> Pick:
        """Return the prefill of a cache of `slots`; slots = 0: the decoding step."""
        if (slots, greedy) not in self._steps:
            step = Pick(PrefillStep(self.net, slots) if slots else DecodeStep(self.net), greedy)
            step.set_train(False)
            self._steps[slots, greedy] = step
        return self._steps[slots, greedy]

    def _batch(self, rows: list[_Row], size: int, width: int, slots: int) -> Iterator[list[Step]]:
        """Fill in tokens and finish of each row. A batch that is not full repeats its last row, so its shape is known."""
        greedy = all(r.greedy for r in rows)
        prefill, decode = self._step(width + slots, greedy), self._step(0, greedy)
        every = rows + [rows[-1]] * (size - len(rows))
        lengths = np.array([r.length for r in every], np.int32)
        ends = lengths + np.array([r.limit - 1 for r in every], np.int32)
        ids = np.full((size, width), self.pad_id, np.int32)
        visible = np.zeros((size, width + slots), bool)
        for b, r in enumerate(every):
            ids[b, width - r.length :] = r.request.prompt
            visible[b, width - r.length : width] = True
        segments = visible[:, :width].astype(np.int32)
        adapters = [r.request.adapter for r in every]
        self._select(adapters)
        picked, finite, *caches = prefill(Tensor(ids), Tensor(segments), Tensor(positions(segments)))
        for slot in range(width, width + slots):
            tokens = np.full((size, 1), self.pad_id, np.int32)
            tokens[: len(rows), 0], steps = self._choose(rows, picked.asnumpy(), finite.asnumpy(), greedy)
            yield steps
            if all(r.finish for r in rows):
                return
            visible[:, slot] = True
            # A row that has ended is still computed; its positions stay within the model's.
            at = np.minimum(lengths + (slot - width), ends)[:, None]
            # Set before every step: the caller may have begun another batch in between.
            self._select(adapters)
            picked, finite, *caches = decode(
                Tensor(tokens), Tensor(at), Tensor(slot, ms.int32), Tensor(visible), *caches
            )

    def _select(self, adapters: Sequence[int]) -> None:
        if self.select is not None:
            self.select(adapters)

    def _choose(self, rows: list[_Row], picked: Array, finite: Array, greedy: bool) -> tuple[list[int], list[Step]]:
        """Return the next token of every row, padding for those that have ended, and the steps of the requests."""
        broken = [r.request.row for r, ok in zip(rows, finite, strict=False) if not ok and r.finish is None]
        if broken:
            raise not_finite(np.array(broken))
        chosen: list[int] = []
        steps: list[Step] = []
        for r, given in zip(rows, picked, strict=False):
            token = self.pad_id
            if r.finish is None:
                token = r.take(given, greedy)
                new = self._add(r, token)
                scored = r.request.scored and new is not None
                logprob = float(log_softmax(given)[token]) if scored else None
                steps += [Step(i, new, r.finish, logprob) for i in r.indices]
            chosen.append(token)
        return chosen, steps

    def _add(self, r: _Row, token: int) -> int | None:
        """Record a row's next token and whether it ends the row. Returns None for a token that only ends it."""
        if token in self.eos_ids or token in r.request.end_of_turn.ids:
            r.finish = "eos"
            return None
        r.tokens.append(token)
        # `watch` gets every token, the last one too.
        if (r.request.watch is not None and r.request.watch(token)) or self._says_end(r):
            r.finish = "stop"
        elif len(r.tokens) == r.limit:
            r.finish = r.at_limit
        return token

    def _says_end(self, r: _Row) -> bool:
        """Return whether the last tokens spell a text that ends the answer."""
        end_of_turn = r.request.end_of_turn
        if not end_of_turn.texts or self.decode is None:
            return False
        return StopStrings(end_of_turn.texts).find(self.decode(r.tokens[-end_of_turn.window :])) is not None


def _power(count: int, least: int) -> int:
    """Return the smallest power of two that is not below either number."""
    return max(least, 1 << (count - 1).bit_length())
