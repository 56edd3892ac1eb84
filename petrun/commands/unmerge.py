"""`petrun unmerge`: compute the base from a merged model and the delta, as far as rounding allows."""

from __future__ import annotations

import time
from pathlib import Path

from petrun import console
from petrun.checkpoint.merge import FLOATS
from petrun.config.commands.merge import UnmergeSettings
from petrun.config.options import DeltaSources
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError, did_you_mean
from petrun.inference.assembly import require_matching_family
from petrun.inference.delta_opener import DeltaOpener
from petrun.inference.merging.inverse import compare_with_base, write_unmerged
from petrun.inference.merging.merged_prompts import holds_prompts
from petrun.inference.stored_base import stored_base


def run(settings: UnmergeSettings) -> None:
    """Write the base, and report whether it is bit-exact. Raises DeltaError where the base cannot be computed."""
    merged, delta, out = settings.merged, settings.delta, settings.out
    family, dtype = settings.family, settings.dtype
    for flag, value in (("--merged", merged), ("--delta", delta), ("--out", out)):
        if value is None:
            raise ConfigError(f"{flag} is missing", hint="petrun unmerge --merged M --delta D --out BASE")
    if dtype is not None and dtype not in FLOATS:
        raise ConfigError(f"--dtype {dtype} is unknown. {did_you_mean(dtype, FLOATS)}")
    began = time.perf_counter()
    model = stored_base(ModelConfig(base=merged, family=family))
    # The base of a delta of petrun's is not compared with the merged model, which is not that base.
    (given,) = DeltaOpener(DeltaSources(family=family, alpha=settings.alpha), model=model)(str(delta))
    require_matching_family(given, model.raw)
    with console.working("taking the delta out"):
        written, watched = write_unmerged(given, model, Path(str(out)).expanduser(), dtype)
    console.tell(
        f"took the delta out of {len(written.changed)} of {written.tensors} tensors into {written.path} "
        f"({written.nbytes / 1e6:,.1f} MB) in {time.perf_counter() - began:.1f} s"
    )
    console.print(compare_with_base(given, model, written, watched))
    if written.path.is_dir() and holds_prompts(given):
        console.print(
            "note: chat template and generation_config.json are those of the merged folder, where merging may have written the delta's: "
            "compare them with the base's"
        )
