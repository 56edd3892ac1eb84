"""`petrun merge`."""

from __future__ import annotations

from typing import Annotated

from petrun.cli import options
from petrun.cli.options import RUN, Text, Texts, option


def merge(
    base: options.Base = None,
    delta: Annotated[
        Texts,
        option(
            "--delta",
            "Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint. Repeatable, with weights: "
            "--delta a.ckpt:0.7 --delta b.ckpt:0.3.",
            options.MODEL,
        ),
    ] = None,
    base_strategy: options.BaseStrategy = None,
    delta_strategy: options.DeltaStrategy = None,
    out: Annotated[
        Text, option("--out", "Folder (Hugging Face layout), or a .safetensors or .ckpt file. Must not exist.", RUN)
    ] = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
    dtype: Annotated[
        Text,
        option(
            "--dtype",
            "float32, float16 or bfloat16. Default: the base's, tensor by tensor.",
            RUN,
            autocompletion=options.complete_key("model.dtype"),
        ),
    ] = None,
    max_shard_size: Annotated[
        Text, option("--max-shard-size", "Largest file of a folder, such as 5GB. Default 5GB.", RUN)
    ] = None,
) -> None:
    """Fold a delta into its base, tensor by tensor, and verify what was written.

    The folder loads in transformers; a .ckpt loads in MindSpore. Sums are formed in float32.

        petrun merge --base ./llama --delta runs/lora-1 --out ./merged
    """
    from petrun.runs.merge import run

    run(
        base=base,
        deltas=delta or (),
        out=out,
        family=model,
        alpha=alpha,
        dtype=dtype,
        max_shard_size=max_shard_size,
        base_strategy=base_strategy,
        delta_strategy=delta_strategy,
    )
