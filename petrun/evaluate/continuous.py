"""Answer requests that come and go: each takes a row of one cache between two tokens of the others, and leaves it when it ends.

Shapes never change: a prompt is computed alone, padded to one of a few widths, then every step computes one token of all rows, free
rows included. So what a request gets depends on nothing that shares the batch with it, and nothing is compiled after `warm_up`.
"""

from __future__ import annotations

from itertools import count

import numpy as np
from mindspore import ops

from petrun.errors import PromptTooLong
from petrun.evaluate.generate import TextGenerator, powers
from petrun.evaluate.generation_steps import Outcome
from petrun.evaluate.request import GrowingAnswer, Request, Step
from petrun.evaluate.score import eval_mode, not_finite
from petrun.tensors import Array


class ContinuousBatch:
    """Rows of one cache, each free or with an answer that grows. One thread at a time."""

    def __init__(self, generator: TextGenerator, rows: int, context: int) -> None:
        """`rows`: answers that grow together; `context`: tokens of a prompt and its answer that a row holds."""
        self.context = context if generator.max_positions is None else min(context, generator.max_positions)
        self._generator = generator
        self._steps = generator.steps
        self._rows: list[GrowingAnswer | None] = [None] * rows
        self._new: list[int] = []
        """Rows whose prompt was not computed yet."""
        self._numbers = count()
        self._steps.renew()
        self._caches = self._steps.open_caches(rows, self.context)

    @property
    def free(self) -> int:
        """Number of rows that are free."""
        return self._rows.count(None)

    def warm_up(self) -> None:
        """Compile every graph that a request may need."""
        with eval_mode(self._generator.net):
            for width in powers(self.context):
                self._prefill(np.zeros(1, np.int32), 0, 0, width)
            self._decode()

    def check(self, request: Request) -> int:
        """Count the tokens that a row leaves for an answer. Raises DataError for a prompt that is empty or too long."""
        left = self.context - len(request.prompt)
        allowed = self._generator.check(request)
        if left < 1:
            raise PromptTooLong(
                f"{request.label}: a prompt of {len(request.prompt)} tokens leaves no room for an answer in the {self.context} tokens "
                "that are kept of each request",
                hint="Shorten the prompt, or start the server with a larger --context.",
            )
        return min(left, allowed)

    def join(self, request: Request) -> int:
        """Give a free row to a request. Returns the number by which its steps are told. Raises as `check`."""
        left = self.check(request)
        number = next(self._numbers)
        answer = self._generator.answer(request, number, left)
        self._generator.net.check_slots(answer.length + answer.limit)
        row = self._rows.index(None)
        self._rows[row] = answer
        self._new.append(row)
        return number

    def leave(self, number: int) -> None:
        """Free the row of a request that nobody waits for; nothing happens where it has ended."""
        for row, answer in enumerate(self._rows):
            if answer is not None and number in answer.indices:
                self._free(row)

    def step(self) -> list[Step]:
        """Compute the prompts that joined, then a token of every answer. Returns what became of each request."""
        steps: list[Step] = []
        with eval_mode(self._generator.net):
            while self._new:
                row = self._new.pop(0)
                answer = self._rows[row]
                assert answer is not None
                prompt = answer.request.prompt
                outcome = self._prefill(prompt, row, answer.request.adapter, powers(self.context, len(prompt))[0])
                steps += self._advance(row, outcome, 0)
            if self.free < len(self._rows):
                outcome = self._decode()
                for row, answer in enumerate(self._rows):
                    if answer is not None:
                        steps += self._advance(row, outcome, row)
        return steps

    def _prefill(self, prompt: Array, row: int, adapter: int, width: int) -> Outcome:
        return self._steps.prefill(self._caches, [prompt], [row], [adapter], width)

    def _decode(self) -> Outcome:
        """Compute the token after the last one of every answer; a free row writes to its first slot, which its next prompt covers."""
        pad = self._generator.pad_id
        tokens = [pad if answer is None else answer.tokens[-1] for answer in self._rows]
        columns = [0 if answer is None else answer.length + len(answer.tokens) - 1 for answer in self._rows]
        adapters = [0 if answer is None else answer.request.adapter for answer in self._rows]
        return self._steps.decode(self._caches, tokens, columns, adapters)

    def _advance(self, row: int, outcome: Outcome, place: int) -> list[Step]:
        """Take the token of a row, which is at `place` of the outcome."""
        answer = self._rows[row]
        assert answer is not None
        if not outcome.finite[place]:
            self._free(row)
            self._forget_nan()
            error = not_finite(np.array([answer.request.row]))
            return [Step(number, None, None, error=error) for number in answer.indices]
        logits = outcome.logits()[place] if answer.needs_logits else None
        steps = answer.advance(outcome.likeliest[place], logits)
        if answer.finish is not None:
            self._free(row)
        return steps

    def _free(self, row: int) -> None:
        self._rows[row] = None
        if row in self._new:
            self._new.remove(row)

    def _forget_nan(self) -> None:
        """Clear NaN from the caches: the primitives multiply hidden values by 0, the C++ operators leave them out."""
        if not self._generator.net.writes_in_place():
            self._caches.tensors = tuple(ops.nan_to_num(x, 0.0, 0.0, 0.0) for x in self._caches.tensors)
