"""Generate answers with a decoder: many prompts at a time, with a cache of keys and values, greedy or sampled.

B batch, T tokens of the longest prompt, S slots of the cache, V vocabulary. Prompts are padded to one of a few widths, so that few
graphs are compiled, and rows of similar length share a batch. A row ends at an end-of-sequence token, at its limit of new tokens, or
where the model has no positions left; its batch ends when all its rows have. Greedy answers equal those of decoding without a cache,
one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from petrun.data.batches.buckets import plan_shapes
from petrun.data.chat.end_of_turn import NO_END_OF_TURN, EndOfTurn
from petrun.errors import ConfigError, DataError, PromptTooLong
from petrun.evaluate.generation_steps import GenerationSteps
from petrun.evaluate.request import Finish, GrowingAnswer, Request, Step
from petrun.evaluate.sampling import Sampling
from petrun.evaluate.score import Progress, counter, eval_mode, not_finite
from petrun.tensors import Array
from petrun.typing import Cell

_SLOTS_MULTIPLE = 16
_PROMPTS_A_SHAPE = 256
"""A further prompt width costs two compilations, which pay off after some hundred prompts."""
_MOST_SHAPES = 4
_NARROWEST = 32
"""Least prompt width, and least slots after it, where shapes should stay the same."""

__all__ = ["Generation", "Request", "Sampling", "Step", "TextGenerator"]


@dataclass(frozen=True)
class Generation:
    """The answer to one prompt."""

    tokens: tuple[int, ...]
    """New tokens, without the one that ended the sequence."""
    finish: Finish


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
        self.net = net
        self.steps = GenerationSteps(net, select)
        self.eos_ids = frozenset(eos_ids)
        self.pad_id = pad_id
        self.max_positions = max_positions
        self.batch_size = batch_size
        self.steady = steady
        self.decode = decode

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

    def answer(self, request: Request, index: int, left: int) -> GrowingAnswer:
        """Begin the answer of a request; `left`: most tokens that it can have."""
        return GrowingAnswer(request, index, left=left, eos_ids=self.eos_ids, decode=self.decode)

    def stream(self, requests: Sequence[Request]) -> Iterator[list[Step]]:
        """Yield the events of each step of a batch, as they come. To stop half-way, close the iterator. Raises as a call does."""
        todo = self._rows(requests)
        if not todo:
            return
        self.steps.renew()
        self.net.check_slots(max(r.length + r.limit for r in todo))
        widths, slots, size = self._shapes(todo)
        with eval_mode(self.net):
            for narrower, width in zip((0, *widths), widths, strict=False):
                group = [r for r in todo if narrower < r.length <= width]
                for start in range(0, len(group), size):
                    yield from self._batch(group[start : start + size], size, width, slots)

    def _rows(self, requests: Sequence[Request]) -> list[GrowingAnswer]:
        """Return the distinct requests, those with the shortest prompts first."""
        found: dict[Hashable, GrowingAnswer] = {}
        for i, request in enumerate(requests):
            alone = request.sampling is not None or request.watch is not None or request.scored or request.choices
            key = i if alone else (request.prompt.tobytes(), request.adapter, request.limit, request.end_of_turn)
            if key in found:
                found[key].indices.append(i)
            else:
                found[key] = self.answer(request, i, self.check(request))
        return sorted(found.values(), key=lambda r: r.length)

    def _shapes(self, todo: list[GrowingAnswer]) -> tuple[tuple[int, ...], int, int]:
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

    def _batch(self, rows: list[GrowingAnswer], size: int, width: int, slots: int) -> Iterator[list[Step]]:
        """Answer these requests together. A batch that is not full repeats its last row, so its shape is known."""
        every = rows + [rows[-1]] * (size - len(rows))
        adapters = [r.request.adapter for r in every]
        caches = self.steps.open_caches(size, width + slots)
        outcome = self.steps.prefill(caches, [r.request.prompt for r in every], range(size), adapters, width)
        for made in range(slots):
            broken = [r.request.row for r, ok in zip(rows, outcome.finite, strict=False) if not ok and r.finish is None]
            if broken:
                raise not_finite(np.array(broken))
            logits = outcome.logits() if any(r.needs_logits and r.finish is None for r in rows) else None
            steps: list[Step] = []
            for b, r in enumerate(rows):
                if r.finish is None:
                    steps += r.advance(outcome.likeliest[b], None if logits is None else logits[b])
            yield steps
            if all(r.finish for r in rows):
                return
            # A row that has ended is still computed; its positions stay within the model's.
            columns = [r.length + min(made, r.limit - 1) for r in every]
            tokens = [self.pad_id if r.finish else r.tokens[-1] for r in rows]
            tokens += [self.pad_id] * (size - len(rows))
            outcome = self.steps.decode(caches, tokens, columns, adapters)


def _power(count: int, least: int) -> int:
    """Return the smallest power of two that is not below either number."""
    return max(least, 1 << (count - 1).bit_length())


def powers(most: int, least: int = 1) -> list[int]:
    """Return the widths that prompts of `least` to `most` tokens are padded to: powers of two, and `most`."""
    width, found = _power(least, _NARROWEST), []
    while width < most:
        found.append(width)
        width *= 2
    return [*found, most]
