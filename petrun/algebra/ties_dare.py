"""Sum changes by TIES or DARE instead of the plain sum, entry by entry on dense arrays.

TIES: keep the largest entries of each change by magnitude (trim); give every entry the sign of the weighted sum (elect sign);
average the changes that have that sign there, by their weights (disjoint mean).
DARE: drop every entry with probability p, divide the rest by 1 - p, then form the weighted sum.

Source: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", arXiv 2306.01708, section 4 (equal weights there;
trimmed per tensor here, over the whole model there); Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous
Models as a Free Lunch", arXiv 2311.03099, section 3.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from petrun.errors import ConfigError
from petrun.tensors import Array

Combine = Callable[[str, Sequence[Array], Sequence[float]], Array]
"""(name, changes of one shape, their weights) -> the joint change, float32."""


@dataclass(frozen=True)
class Ties:
    density: float = 0.2
    """Share of each change's entries that stays."""

    def __post_init__(self) -> None:
        if not 0.0 < self.density <= 1.0:
            raise ConfigError(
                f"--density {self.density:g} must be above 0 and at most 1", hint="Example: --density 0.2"
            )

    def __call__(self, name: str, changes: Sequence[Array], weights: Sequence[float]) -> Array:
        if min(weights) <= 0.0:
            raise ConfigError("--method ties averages: its weights must be above 0")
        trimmed = [trim(change, self.density) for change in changes]
        elected = np.sign(sum(w * change for w, change in zip(weights, trimmed, strict=True)))
        total = np.zeros(changes[0].shape, np.float32)
        count = np.zeros(changes[0].shape, np.float32)
        for w, change in zip(weights, trimmed, strict=True):
            agrees = (np.sign(change) == elected) & (elected != 0)
            total += np.where(agrees, np.float32(w) * change, np.float32(0))
            count += agrees * np.float32(w)
        return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


def trim(change: Array, density: float) -> Array:
    """Keep the largest entries by magnitude, as many as the share says (one at least), and set the rest to zero."""
    flat = change.reshape(-1)
    count = max(1, round(density * flat.size))
    kept = np.zeros_like(flat)
    indices = np.argpartition(np.abs(flat), flat.size - count)[flat.size - count :]
    kept[indices] = flat[indices]
    return kept.reshape(change.shape)


@dataclass(frozen=True)
class Dare:
    drop: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop < 1.0:
            raise ConfigError(f"--drop {self.drop:g} must be at least 0 and below 1", hint="Example: --drop 0.9")

    def __call__(self, name: str, changes: Sequence[Array], weights: Sequence[float]) -> Array:
        total = np.zeros(changes[0].shape, np.float32)
        for i, (w, change) in enumerate(zip(weights, changes, strict=True)):
            # Seeded by name and position, so that the same command gives the same bytes in whatever order tensors are computed.
            rng = np.random.default_rng([self.seed, i, zlib.crc32(name.encode())])
            stays = rng.random(change.shape, np.float32) >= self.drop
            total += np.where(stays, np.float32(w / (1.0 - self.drop)) * change, np.float32(0))
        return total
