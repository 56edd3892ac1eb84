"""Choose the next token from logits: the likeliest, or a drawn one; with a penalty on tokens that the text holds already.

V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from petrun.errors import ConfigError
from petrun.tensors import Array


@dataclass(frozen=True)
class Sampling:
    """Draw each token from softmax(logits / temperature), cut to the `top_k` likeliest (0: all), then to the fewest whose
    probabilities add up to `top_p`; temperature 0 takes the likeliest. Before that, with r = repetition_penalty, a logit z of a token
    that prompt or answer holds becomes z / r where it is positive, else z r. Every row has its own stream, keyed by (seed, row):
    batches do not change what is drawn.

    Source: top-k: Fan et al., ACL 2018; top-p: Holtzman et al., arXiv:1904.09751; penalty: Keskar et al., arXiv:1909.05858, section
    4.1, for negative logits as transformers does it. Raises: ConfigError.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            problems.append(f"temperature = {self.temperature} is not a number of 0 or more")
        if self.top_k < 0:
            problems.append(f"top_k = {self.top_k} is below 0")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p = {self.top_p} does not lie in (0, 1]")
        if self.seed < 0:
            problems.append(f"seed = {self.seed} is below 0")
        if not (np.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            problems.append(f"repetition_penalty = {self.repetition_penalty} is not a number above 0")
        if problems:
            raise ConfigError("sampling: " + "; ".join(problems), hint="Temperature 0 takes the likeliest token.")

    @property
    def greedy(self) -> bool:
        """Whether it takes the likeliest token of unchanged logits, which the graph can do by itself."""
        return self.temperature == 0 and self.repetition_penalty == 1.0

    def stream(self, row: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, row])

    def take(self, logits: Array, stream: np.random.Generator, before: Sequence[int]) -> int:
        """Choose one token from (V,) logits, after the tokens `before`."""
        logits = penalised(logits, before, self.repetition_penalty)
        return int(logits.argmax()) if self.temperature == 0 else self.draw(logits, stream)

    def draw(self, logits: Array, stream: np.random.Generator) -> int:
        """Draw one token from (V,) logits, by inversion of one uniform number."""
        scores = logits.astype(np.float64) / self.temperature
        order = np.argsort(-scores, kind="stable")
        if self.top_k:
            order = order[: self.top_k]
        weights = np.exp(scores[order] - scores[order[0]])
        below = np.cumsum(weights) - weights
        kept = weights[below < self.top_p * weights.sum()]
        place = np.searchsorted(np.cumsum(kept), stream.random() * kept.sum(), side="right")
        return int(order[min(int(place), len(kept) - 1)])


def penalised(logits: Array, before: Sequence[int], penalty: float) -> Array:
    """Return (V,) logits; those of the tokens `before` are divided by the penalty, or multiplied where they are negative."""
    if penalty == 1.0 or not len(before):
        return logits
    changed = logits.astype(np.float32, copy=True)
    seen = np.unique(np.asarray(before, np.int64))
    changed[seen] = np.where(changed[seen] < 0, changed[seen] * penalty, changed[seen] / penalty)
    return changed
