"""`petrun merge`, `petrun unmerge` and `petrun reshard`: models as files."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from petrun.config.choices import run_choices
from petrun.config.options import MODEL, RUN, DeltaSources, like, option

DELTA = "Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint."


def dtype_choices() -> list[str]:
    """Types that a model is written in."""
    from petrun.config.flags import choices_of

    return choices_of("model.dtype")


def format_choices() -> list[str]:
    """Formats of a delta file."""
    from petrun.config.flags import choices_of

    return choices_of("out.format")


@dataclass(frozen=True, kw_only=True)
class MergeSettings(DeltaSources):
    """The deltas that are merged into their base, what is written, and whether it is proven."""

    deltas: tuple[str, ...] = option(
        "--delta",
        f"{DELTA} Repeatable, with weights: --delta a.ckpt:0.7 --delta b.ckpt:0.3.",
        MODEL,
        default=(),
        choices=run_choices,
    )
    base_strategy: str | None = like("model.base_strategy")
    delta_strategy: str | None = like("delta_strategy")
    quant: str | None = like("model.quant")
    out: str | None = option(
        "--out", "Folder (Hugging Face layout), or a .safetensors, .ckpt or .gguf file. Must not exist.", RUN
    )
    dtype: str | None = option(
        "--dtype",
        "float32, float16 or bfloat16. Default: the base's, tensor by tensor.",
        RUN,
        choices=dtype_choices,
    )
    max_shard_size: str = option(
        "--max-shard-size", "Largest file of a folder, such as 5GB. Default 5GB.", RUN, default="5GB"
    )
    out_bits: str | None = option(
        "--out-bits",
        "8 or 4: quantise the merged model, as petrun quantize does, and print the error. Default: full precision.",
        RUN,
    )
    prove: bool = option(
        "--prove",
        "Run base + delta and the merged model on the same rows; a merge that differs is removed.",
        RUN,
        default=False,
    )
    tolerance: float | None = option(
        "--tolerance", "Largest difference of a logit for --prove. Default: by the type written.", RUN
    )
    probe: str | None = option("--probe", "Text file for --prove, a row a line. Default: random tokens.", RUN)


@dataclass(frozen=True, kw_only=True)
class UnmergeSettings:
    """The merged model, the LoRA that is taken out of it, and what is written."""

    merged: str | None = option("--merged", "The merged model: a folder or file, as merge wrote it.", MODEL)
    delta: str | None = option("--delta", DELTA, MODEL, choices=run_choices)
    out: str | None = option("--out", "Folder, or a .safetensors or .ckpt file. Must not exist.", RUN)
    family: str | None = like("model.family")
    alpha: float | None = option(
        "--alpha", "LoRA alpha of a delta whose file does not say it (MindPet checkpoints).", MODEL
    )
    dtype: str | None = option(
        "--dtype",
        "Type of the base, where the merge wrote another. Default: the merged model's.",
        RUN,
        choices=dtype_choices,
    )


@dataclass(frozen=True, kw_only=True)
class ReshardSettings:
    """The files that are read, and how what is written is divided over ranks."""

    source: str = option(
        "--from",
        "Base or delta: the folder of rank_0, rank_1, ... (or a path with {rank} in it), a file, a Hugging Face folder, or a run "
        "folder.",
        default=MISSING,
    )
    out: str = option(
        "--out",
        "Folder to write, or with --single a .ckpt or .safetensors file. Must not exist.",
        default=MISSING,
    )
    from_strategy: str | None = option(
        "--from-strategy", "Of the files of a job's ranks: its strategy file, or the folder of its stages'."
    )
    to_strategy: str | None = option(
        "--to-strategy", "Strategy file of the job that is to read the result, or the folder of its stages'."
    )
    single: bool = option("--single", "Write one whole file.", default=False)
    file_format: str | None = option(
        "--format", "ckpt or safetensors. Default: that of --from.", RUN, choices=format_choices
    )
