"""Run a decoder's two compiled steps: prompts into a cache of keys and values, and a token of every row against it.

B rows of the cache, S slots of a row, P prompts, T tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from mindspore import Tensor, nn

from petrun.errors import ModelError
from petrun.graph.compilations import SteadyCall
from petrun.graph.unpacked import call_with
from petrun.kernels import Likeliest
from petrun.models.decoding import DecodeStep, PrefillStep
from petrun.models.families import spell_families
from petrun.tensors import Array
from petrun.typing import Cell


class Caches:
    """Keys and values of B rows, with S slots each."""

    def __init__(self, tensors: Sequence[Tensor], rows: int, slots: int) -> None:
        self.tensors = tuple(tensors)
        self.rows = rows
        self.slots = slots


class Outcome:
    """What a step says of each row."""

    def __init__(self, likeliest: Tensor, finite: Tensor, logits: Tensor) -> None:
        self.likeliest: list[int] = likeliest.asnumpy().tolist()
        self.finite: list[bool] = finite.asnumpy().tolist()
        """Whether all of a row's logits are."""
        self._logits = logits
        self._copy: Array | None = None

    def logits(self) -> Array:
        """Copy the logits to the host, once: (B, V) float32."""
        if self._copy is None:
            self._copy = self._logits.asnumpy()
        return self._copy


class Pick(nn.Cell):
    """A step of the net and, in the same graph, the reduction of its logits for the host.

    Inputs: the step's. Returns: the likeliest token (B,) int32, whether all of a row's logits are finite (B,) bool, the logits
    (B, V) float32; then the caches, unless the step writes them `in_place`.
    """

    def __init__(self, step: Cell, in_place: bool) -> None:
        super().__init__(auto_prefix=False)
        self.step = step
        self.in_place = in_place
        self.likeliest = Likeliest()

    def construct(self, *args: Tensor) -> Tensor:
        out = call_with(self.step, args)
        best, finite = self.likeliest(out[0])
        if self.in_place:
            return best, finite, out[0]
        return (best, finite, *out)


class GenerationSteps:
    """The two steps of a net, one graph for each shape. `select` is called with the rows' adapter indices before the net computes.

    Raises ModelError for a net that has no cache.
    """

    def __init__(self, net: Cell, select: Callable[[Sequence[int]], None] | None = None) -> None:
        if not (hasattr(net, "prefill") and hasattr(net, "decode")):
            raise ModelError(
                f"{type(net).__name__} cannot generate: it has no prefill and decode with a key/value cache",
                hint=f"Generation needs a {spell_families('instruct')} family model; leave out metrics that generate, or use --task lm.",
            )
        self.net = net
        self.select = select
        self.compiled: dict[Hashable, SteadyCall] = {}
        self._parameters: tuple[int, ...] = ()

    def renew(self) -> None:
        """Drop this object's graphs where a delta was attached or detached since the last call."""
        parameters = tuple(id(p) for p in self.net.get_parameters())
        if parameters != self._parameters:
            self._parameters = parameters
            self.compiled.clear()

    def open_caches(self, rows: int, slots: int) -> Caches:
        """Return empty caches."""
        return Caches(self.net.open_caches(rows, slots), rows, slots)

    def prefill(
        self, caches: Caches, prompts: Sequence[Array], rows: Sequence[int], adapters: Sequence[int], width: int
    ) -> Outcome:
        """Write the prompts, padded to `width`, into these rows of the caches."""
        ids = np.zeros((len(prompts), width), np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        return self._run(caches, adapters, ids, lengths, np.array(rows, np.int32))

    def decode(self, caches: Caches, tokens: Sequence[int], columns: Sequence[int], adapters: Sequence[int]) -> Outcome:
        """Compute one token of every row, which goes to the slot `columns` of its row."""
        return self._run(caches, adapters, np.array(tokens, np.int32).reshape(-1, 1), np.array(columns, np.int32))

    def _run(self, caches: Caches, adapters: Sequence[int], *inputs: Array) -> Outcome:
        if self.select is not None:
            # Set before every step: the caller may have begun another batch in between.
            self.select(adapters)
        step = self._step(len(inputs) == 3, inputs[0].shape, caches)
        likeliest, finite, logits, *new = step(*map(Tensor, inputs), *caches.tensors)
        if new:
            caches.tensors = tuple(new)
        return Outcome(likeliest, finite, logits)

    def _step(self, of_prompts: bool, shape: tuple[int, ...], caches: Caches) -> SteadyCall:
        key = (of_prompts, shape, caches.rows, caches.slots)
        if key not in self.compiled:
            step = Pick((PrefillStep if of_prompts else DecodeStep)(self.net), self.net.writes_in_place())
            step.set_train(False)
            self.compiled[key] = SteadyCall(step)
        return self.compiled[key]
