"""`petrun reshard`."""

from __future__ import annotations

from typing import Annotated

import typer

from petrun.cli import options
from petrun.cli.options import RUN, Text, option


def reshard(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="Base or delta: the folder of rank_0, rank_1, ... (or a path with {rank} in it), a file, a Hugging Face folder, or a run "
            "folder.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            help="Folder to write, or with --single a .ckpt or .safetensors file. Must not exist.",
            show_default=False,
        ),
    ],
    from_strategy: Annotated[
        Text,
        option("--from-strategy", "Of the files of a job's ranks: its strategy file, or the folder of its stages'."),
    ] = None,
    to_strategy: Annotated[
        Text,
        option("--to-strategy", "Strategy file of the job that is to read the result, or the folder of its stages'."),
    ] = None,
    single: Annotated[bool, option("--single", "Write one whole file.")] = False,
    fmt: Annotated[
        Text,
        option(
            "--format",
            "ckpt or safetensors. Default: that of --from.",
            RUN,
            autocompletion=options.complete_key("out.format"),
        ),
    ] = None,
) -> None:
    """Shard a base or a delta for another job, or put its shards together. What was written is put together again and compared.

    petrun reshard --from ckpts --from-strategy pretrain.ckpt --to-strategy finetune.ckpt --out ckpts8

    petrun reshard --from delta_ckpts --from-strategy finetune.ckpt --single --out lora.ckpt
    """
    from petrun.commands.reshard import run

    run(source=source, from_strategy=from_strategy, to_strategy=to_strategy, single=single, out=out, fmt=fmt)
