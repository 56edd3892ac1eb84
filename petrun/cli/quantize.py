"""`petrun quantize`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.quantize import QuantizeSettings


def quantize(settings: QuantizeSettings) -> None:
    """Write a base with its linear layers in 8 or 4 bits, and report the error. Runs need half or a quarter of its memory and disk.

    The folder is bitsandbytes' form: petrun reads it as --base, and transformers with bitsandbytes loads it.

        petrun quantize --base ./llama --out ./llama-nf4
        petrun train --base ./llama-nf4 --data train.jsonl
    """
    from petrun.commands.quantize import run

    run(settings)


COMMAND = Command(
    name="quantize",
    settings=QuantizeSettings,
    run=quantize,
    options=("base", "out", "quant", "family", "max_shard_size"),
)
