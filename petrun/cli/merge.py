"""`petrun merge` and `petrun unmerge`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.merge import MergeSettings, UnmergeSettings


def merge(settings: MergeSettings) -> None:
    """Merge a delta into its base, tensor by tensor, and verify what was written.

    The folder loads in transformers; a .ckpt loads in MindSpore. Sums are formed in float32.

        petrun merge --base ./llama --delta runs/lora-1 --out ./merged
    """
    from petrun.commands.merge import run

    run(settings)


def unmerge(settings: UnmergeSettings) -> None:
    """Take a LoRA out of a merged model again, and report whether the result is the base, bit-exact.

    petrun unmerge --merged ./merged --delta runs/lora-1 --out ./base
    """
    from petrun.commands.unmerge import run

    run(settings)


MERGE = Command(
    name="merge",
    settings=MergeSettings,
    run=merge,
    options=(
        *("base", "deltas", "base_strategy", "delta_strategy", "quant", "out", "family", "alpha"),
        *("dtype", "out_bits", "max_shard_size", "prove", "tolerance", "probe"),
    ),
)
UNMERGE = Command(
    name="unmerge",
    settings=UnmergeSettings,
    run=unmerge,
    options=("merged", "delta", "out", "family", "alpha", "dtype"),
)
