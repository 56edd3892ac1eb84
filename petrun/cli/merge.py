"""`petrun merge` and `petrun unmerge`."""

from __future__ import annotations

from typing import Annotated

from petrun.cli import options
from petrun.cli.options import RUN, Number, Text, Texts, option


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
    prove: Annotated[
        bool,
        option(
            "--prove", "Run base + delta and the merged model on the same rows; a merge that differs is removed.", RUN
        ),
    ] = False,
    tolerance: Annotated[
        Number, option("--tolerance", "Largest difference of a logit for --prove. Default: by the type written.", RUN)
    ] = None,
    probe: Annotated[
        Text, option("--probe", "Text file for --prove, a row a line. Default: random tokens.", RUN)
    ] = None,
) -> None:
    """Merge a delta into its base, tensor by tensor, and verify what was written.

    The folder loads in transformers; a .ckpt loads in MindSpore. Sums are formed in float32.

        petrun merge --base ./llama --delta runs/lora-1 --out ./merged
    """
    from petrun.commands.merge import MergeSettings, run
    from petrun.inference.delta_opener import DeltaSources

    sources = DeltaSources(
        base=base, family=model, alpha=alpha, base_strategy=base_strategy, delta_strategy=delta_strategy
    )
    settings = MergeSettings(dtype=dtype, max_shard_size=max_shard_size, prove=prove, tolerance=tolerance, probe=probe)
    run(delta or (), out=out, sources=sources, settings=settings)


def unmerge(
    merged: Annotated[
        Text, option("--merged", "The merged model: a folder or file, as merge wrote it.", options.MODEL)
    ] = None,
    delta: options.Delta = None,
    out: Annotated[Text, option("--out", "Folder, or a .safetensors or .ckpt file. Must not exist.", RUN)] = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
    dtype: Annotated[
        Text,
        option(
            "--dtype",
            "Type of the base, where the merge wrote another. Default: the merged model's.",
            RUN,
            autocompletion=options.complete_key("model.dtype"),
        ),
    ] = None,
) -> None:
    """Take a LoRA out of a merged model again, and say whether what is left is the base to the bit.

    petrun unmerge --merged ./merged --delta runs/lora-1 --out ./base
    """
    from petrun.commands.unmerge import run

    run(merged=merged, delta=delta, out=out, family=model, alpha=alpha, dtype=dtype)
