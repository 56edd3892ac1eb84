"""Settings of the methods whose layers have a rank and a scale, alpha / rank, each of which may differ by layer."""

from __future__ import annotations

import math

from pydantic import Field, field_validator

from petrun.delta.dense import TargetConfig
from petrun.errors import TargetError, did_you_mean


class RankedConfig(TargetConfig):
    """Rank and alpha of every layer, and patterns of those where they differ."""

    rank: int = Field(8, ge=1, description="rank of the update")
    alpha: float = Field(16.0, description="scale of the update; s = alpha / rank")
    rank_pattern: dict[str, int] = Field(default_factory=dict, description="path -> rank, where it differs")
    alpha_pattern: dict[str, float] = Field(default_factory=dict, description="path -> alpha, where it differs")

    @field_validator("alpha")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if value == 0 or not math.isfinite(value):
            raise ValueError("alpha must be a finite number other than 0")
        return value

    @field_validator("rank_pattern")
    @classmethod
    def _positive(cls, value: dict[str, int]) -> dict[str, int]:
        wrong = [path for path, rank in value.items() if rank < 1]
        if wrong:
            raise ValueError(f"rank must be at least 1 for {', '.join(wrong)}")
        return value

    def site(self, path: str) -> tuple[int, float]:
        """(rank, scale) of the layer at `path`."""
        rank = self.rank_pattern.get(path, self.rank)
        return rank, self.alpha_pattern.get(path, self.alpha) / rank


def check_patterns(config: RankedConfig, paths: tuple[str, ...]) -> None:
    """Raises TargetError for a pattern of a layer that is not adapted."""
    problems = [
        f"delta.{name}: {key} is none of the adapted layers. {did_you_mean(key, paths)}"
        for name in ("rank_pattern", "alpha_pattern")
        for key in getattr(config, name)
        if key not in paths
    ]
    if problems:
        raise TargetError(
            "\n".join(problems), hint="Its keys are whole paths of layers, as `petrun inspect` lists them."
        )
