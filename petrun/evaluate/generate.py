"""Answers from a decoder: many prompts at a time, with a cache of keys and values, greedy or sampled.

B batch, T tokens of the longest prompt, S slots of the cache, V vocabulary. Prompts are padded on the left to one of a few widths,
so that few graphs are compiled, and rows of similar length share a batch. A row ends at an end-of-sequence token, at its limit of
new tokens, or where the model has no positions left; its batch ends when all its rows have. Greedy answers equal those of decoding
without a cache, one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.data.batches import positions
from petrun.data.buckets import plan_shapes
from petrun.errors import ConfigError, DataError, ModelError
from petrun.evaluate.score import Progress, counter, eval_mode, not_finite
from petrun.models.decoding import DecodeStep, PrefillStep
from petrun.tensors import Array

_SLOTS_MULTIPLE = 16
_PROMPTS_A_SHAPE = 256
"""A further prompt width costs two compilations; it takes some hundred prompts to earn them back."""
_MOST_SHAPES = 4


@dataclass(frozen=True)
class Sampling:
    """Draw each token from softmax(logits / temperature), cut to the `top_k` likeliest (0: all), then to the fewest whose
    probabilities add up to `top_p`. Every row has its own stream, keyed by (seed, row): batches do not change what is drawn.

    Source: top-k: Fan et al., ACL 2018; top-p: Holtzman et al., arXiv:1904.09751. Raises: ConfigError.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            problems.append(f"temperature = {self.temperature} is not a number above 0")
        if self.top_k < 0:
            problems.append(f"top_k = {self.top_k} is below 0")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p = {self.top_p} does not lie in (0, 1]")
        if problems:
            raise ConfigError(
                "sampling: " + "; ".join(problems), hint="Leave sampling out to take the likeliest token."
            )

    def stream(self, row: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, row])

    def draw(self, logits: Array, stream: np.random.Generator) -> int:
        """One token from (V,) logits, by inversion of one uniform number."""
        scores = logits.astype(np.float64) / self.temperature
        order = np.argsort(-scores, kind="stable")
        if self.top_k:
            order = order[: self.top_k]
        weights = np.exp(scores[order] - scores[order[0]])
        below = np.cumsum(weights) - weights
        kept = weights[below < self.top_p * weights.sum()]
        place = np.searchsorted(np.cumsum(kept), stream.random() * kept.sum(), side="right")
        return int(order[min(int(place), len(kept) - 1)])


Finish = Literal["eos", "length", "positions"]
"""How an answer ended: by itself, at the limit of new tokens, or at the end of the model's positions."""


@dataclass(frozen=True)
class Generation:
    """The answer to one prompt."""

    tokens: tuple[int, ...]
    """New tokens, without the one that ended the sequence."""
    finish: Finish


class Pick(nn.Cell):
    """A step of the net and, in the same graph, what the host wants of its logits.

    Inputs: the step's. Returns: greedy: argmax (B,) int32, else logits (B, V) float32; whether all of a row's logits are finite (B,)
    bool; then the caches.
    """

    def __init__(self, step: Any, greedy: bool) -> None:
        super().__init__(auto_prefix=False)
        self.step = step
        self.greedy = greedy

    def construct(self, *args: Any) -> Any:
        out = self.step(*args)
        logits = out[0]
        finite = ops.isfinite(logits).all(-1)
        picked = ops.argmax(logits, -1).astype(ms.int32) if self.greedy else logits
        return (picked, finite, *out[1:])


@dataclass
class _Row:
    """A distinct prompt on its way."""

    prompt: Array
    """(t,) int32."""
    row: int
    """Its number in the data."""
    indices: list[int]
    """Which of the caller's prompts are this one."""
    limit: int
    """Most new tokens."""
    at_limit: Finish
    """What it means to reach it."""
    take: Callable[[Any], int]
    """What `Pick` gave for this row -> its next token."""
    tokens: list[int]
    finish: Finish | None = None


class Generator:
    """Generates with one net again and again without compiling again. Attach deltas before a call, not during it.

    Inputs: `eos_ids`, tokens of which any ends a row; `max_positions`, the most tokens that prompt and answer may have together
    (None: no limit); `batch_size`, B. Raises ModelError for a net that has no cache.
    """

    def __init__(
        self,
        net: Any,
        *,
        eos_ids: Iterable[int],
        pad_id: int = 0,
        max_positions: int | None = None,
        batch_size: int = 16,
    ) -> None:
        if not (hasattr(net, "prefill") and hasattr(net, "decode")):
            raise ModelError(
                f"{type(net).__name__} cannot generate: it has no prefill and decode with a key/value cache",
                hint="Generation needs a gpt2 or llama family model; leave out metrics that generate, or use --task lm.",
            )
        self.net = net
        self.eos_ids = frozenset(eos_ids)
        self.pad_id = pad_id
        self.max_positions = max_positions
        self.batch_size = batch_size
        self._parameters: tuple[int, ...] = ()
        self._steps: dict[tuple[int, bool], Pick] = {}

    def __call__(
        self,
        prompts: Sequence[Array | Sequence[int]],
        max_new_tokens: int,
        *,
        sampling: Sampling | None = None,
        rows: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Answers in the order of the prompts, each a 1-D sequence of token ids. Equal prompts are answered once, unless sampled.

        Inputs: `rows`, the prompts' numbers in the data, for messages and sampling (default: 0, 1, ...); `progress` is called with
        (prompts answered, all prompts).
        Raises: DataError for a prompt that is empty or fills all positions; WeightsError naming a row whose logits are not finite.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens = {max_new_tokens} is below 1")
        numbers = range(len(prompts)) if rows is None else rows
        todo = self._rows([np.asarray(p, np.int32) for p in prompts], numbers, max_new_tokens, sampling)
        if not todo:
            return []
        self._renew()
        self.net.check_slots(max(len(r.prompt) + r.limit for r in todo))
        lengths = [len(r.prompt) for r in todo]
        shapes = min(_MOST_SHAPES, 1 + len(todo) // _PROMPTS_A_SHAPE)
        widths = plan_shapes(lengths, shapes, max(lengths) + _SLOTS_MULTIPLE)
        room = -(-max(r.limit for r in todo) // _SLOTS_MULTIPLE) * _SLOTS_MULTIPLE
        size = min(self.batch_size, len(todo))
        tell = counter(progress, len(prompts))
        with eval_mode(self.net):
            for narrower, width in zip((0, *widths), widths, strict=False):
                group = [r for r in todo if narrower < len(r.prompt) <= width]
                for start in range(0, len(group), size):
                    steps = self._step(width + room, sampling is None), self._step(0, sampling is None)
                    self._batch(group[start : start + size], size, width, room, steps, tell)
        answers = {i: Generation(tuple(r.tokens), r.finish or r.at_limit) for r in todo for i in r.indices}
        return [answers[i] for i in range(len(prompts))]

    def _rows(
        self, prompts: list[Array], numbers: Sequence[int], max_new_tokens: int, sampling: Sampling | None
    ) -> list[_Row]:
        """Distinct prompts, shortest first, each with its limit."""
        found: dict[Any, _Row] = {}
        for i, (prompt, number) in enumerate(zip(prompts, numbers, strict=True)):
            key = prompt.tobytes() if sampling is None else i
            if key in found:
                found[key].indices.append(i)
                continue
            if len(prompt) == 0:
                raise DataError(
                    f"row {number}: the prompt holds no tokens", hint="Give the row a text, or a --template."
                )
            left = max_new_tokens if self.max_positions is None else self.max_positions - len(prompt)
            if left < 1:
                raise DataError(
                    f"row {number}: a prompt of {len(prompt)} tokens leaves no room for an answer in the model's "
                    f"{self.max_positions} positions",
                    hint="Shorten the prompt, or cut it with --seq-len.",
                )
            limit = min(left, max_new_tokens)
            at_limit: Finish = "positions" if limit < max_new_tokens else "length"
            take = int if sampling is None else partial(sampling.draw, stream=sampling.stream(number))
            found[key] = _Row(prompt, number, [i], limit, at_limit, take, [])
        return sorted(found.values(), key=lambda r: len(r.prompt))

    def _renew(self) -> None:
        """A delta attached or detached since the last call leaves this object's own graphs out of date."""
        parameters = tuple(id(p) for p in self.net.get_parameters())
        if parameters != self._parameters:
            self._parameters = parameters
            self._steps.clear()

    def _step(self, slots: int, greedy: bool) -> Pick:
        """The prefill of a cache of `slots`; slots = 0: the decoding step."""
        if (slots, greedy) not in self._steps:
            step = Pick(PrefillStep(self.net, slots) if slots else DecodeStep(self.net), greedy)
            step.set_train(False)
            self._steps[slots, greedy] = step
        return self._steps[slots, greedy]

    def _batch(
        self,
        rows: list[_Row],
        size: int,
        width: int,
        room: int,
        steps: tuple[Pick, Pick],
        tell: Callable[[int], None],
    ) -> None:
        """Fill in tokens and finish of each row. A batch that is not full repeats its last row, so its shape is known."""
        prefill, decode = steps
        every = rows + [rows[-1]] * (size - len(rows))
        lengths = np.array([len(r.prompt) for r in every], np.int32)
        ends = lengths + np.array([r.limit - 1 for r in every], np.int32)
        ids = np.full((size, width), self.pad_id, np.int32)
        visible = np.zeros((size, width + room), bool)
        for b, r in enumerate(every):
            ids[b, width - len(r.prompt) :] = r.prompt
            visible[b, width - len(r.prompt) : width] = True
        segments = visible[:, :width].astype(np.int32)
        picked, finite, *caches = prefill(Tensor(ids), Tensor(segments), Tensor(positions(segments)))
        for slot in range(width, width + room):
            tokens = np.full((size, 1), self.pad_id, np.int32)
            tokens[: len(rows), 0] = self._choose(rows, picked.asnumpy(), finite.asnumpy(), tell)
            if all(r.finish for r in rows):
                return
            visible[:, slot] = True
            # A row that has ended goes on in place: its positions stay within the model's.
            at = np.minimum(lengths + (slot - width), ends)[:, None]
            picked, finite, *caches = decode(
                Tensor(tokens), Tensor(at), Tensor(slot, ms.int32), Tensor(visible), *caches
            )

    def _choose(self, rows: list[_Row], picked: Array, finite: Array, tell: Callable[[int], None]) -> list[int]:
        """The next token of every row; those that have ended get padding."""
        broken = [r.row for r, ok in zip(rows, finite, strict=False) if not ok and r.finish is None]
        if broken:
            raise not_finite(np.array(broken))
        chosen = []
        for r, given in zip(rows, picked, strict=False):
            token = self.pad_id
            if r.finish is None:
                token = r.take(given)
                if token in self.eos_ids:
                    r.finish = "eos"
                else:
                    r.tokens.append(token)
                    r.finish = r.at_limit if len(r.tokens) == r.limit else None
                if r.finish is not None:
                    tell(len(r.indices))
            chosen.append(token)
        return chosen


def generate(
    net: Any,
    prompts: Sequence[Array | Sequence[int]],
    max_new_tokens: int,
    *,
    eos_ids: Iterable[int],
    pad_id: int = 0,
    max_positions: int | None = None,
    batch_size: int = 16,
    sampling: Sampling | None = None,
    rows: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> list[Generation]:
    """One call of a Generator, which keeps its graphs for the next."""
    generator = Generator(net, eos_ids=eos_ids, pad_id=pad_id, max_positions=max_positions, batch_size=batch_size)
    return generator(prompts, max_new_tokens, sampling=sampling, rows=rows, progress=progress)
