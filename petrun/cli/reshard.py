"""`petrun reshard`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.merge import ReshardSettings


def reshard(settings: ReshardSettings) -> None:
    """Shard a base or a delta for another job, or put its shards together. The written files are read back, joined and compared.

    petrun reshard --from ckpts --from-strategy pretrain.ckpt --to-strategy finetune.ckpt --out ckpts8

    petrun reshard --from delta_ckpts --from-strategy finetune.ckpt --single --out lora.ckpt
    """
    from petrun.commands.reshard import run

    run(settings)


COMMAND = Command(
    name="reshard",
    settings=ReshardSettings,
    run=reshard,
    options=("source", "out", "from_strategy", "to_strategy", "single", "file_format"),
)
