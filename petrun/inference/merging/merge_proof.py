"""`petrun merge --prove`: compare the logits of base + delta with those of the merged model. They may differ by rounding only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from petrun.checkpoint.delta import Delta
from petrun.config.schema import ModelConfig
from petrun.inference.assembly import open_base
from petrun.inference.merging.probe import logits_of, probe_delta, tolerance
from petrun.inference.stored_base import StoredBase
from petrun.parallel.context import eager
from petrun.tensors import open_tensors
from petrun.tensors.sharded.ranks import root_of

_TOLERANCES = {"float64": 1e-3, "float32": 1e-3, "float16": 5e-2, "bfloat16": 5e-1}
"""By the type that the merged weights are rounded to."""


@dataclass(frozen=True)
class MergeProof:
    """Compares base + delta with the merged model on the disk. The merge removes its model where this raises."""

    base: StoredBase
    tolerance: float | None = None
    probe: str | None = None
    """A text file with a row in each line; None: token ids drawn from a seed."""

    def check(self, delta: Delta, merged: Path) -> None:
        """Print how the logits differ. Raises DeltaError where they differ by more than the tolerance."""
        probe = probe_delta(self.base, delta, self.probe)
        config = None if merged.is_dir() else str(_config_of(self.base.path))
        model = ModelConfig(base=str(merged), config=config, family=self.base.family)
        with eager():
            again = open_base(model, probe.device, task=probe.task, num_labels=probe.classes, seed=0)
            found = logits_of(again, probe.rows)
        probe.compare(
            found,
            "proof",
            "the merged model",
            tolerance(self.tolerance, _of_types(merged), probe.largest),
            "Rounding to a narrow type costs precision: --dtype float32 keeps it. --tolerance accepts more.",
        )


def _of_types(merged: Path) -> float:
    """Return the tolerance of the types of the merged weights."""
    reader = open_tensors(merged)
    return max(_TOLERANCES.get(reader.info(name).dtype, 0.0) for name in reader.names) or _TOLERANCES["float32"]


def _config_of(base: Path) -> Path:
    folder = root_of(base)
    return (folder if folder.is_dir() else folder.parent) / "config.json"
