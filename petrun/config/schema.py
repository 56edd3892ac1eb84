"""What a run may be told: every key, its type, its default and its meaning. Nothing else sets a default.

Keys are spelt `section.key` on the command line (`--set optim.beta2=0.95`). A delta algorithm's own keys (`delta.*`) and their
defaults stand in that algorithm's file, petrun/delta/<algo>.py.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator

Task = Literal["classify", "lm", "instruct"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def _as_many(value: Any) -> Any:
    """One value stands for a list of one."""
    return (value,) if isinstance(value, str | int | float) else value


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def _as_seconds(value: Any) -> Any:
    """2h, 1h30m, 90m, 45s -> seconds; a number is one already."""
    match = _DURATION.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    if match is None or not any(match.groups()):
        return value
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class ModelConfig(Section):
    base: str | None = Field(
        None, description="Hugging Face folder, .safetensors or .ckpt file of the base; none: the embedded base"
    )
    base_strategy: str | None = Field(
        None, description="strategy file, or folder of them, of a base in the files of a job's ranks"
    )
    family: str | None = Field(
        None, description="bert, gpt2 or llama (default: from config.json), or module:function / file.py:function"
    )
    config: str | None = Field(None, description="config.json, when it does not lie beside the base's file")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for a module:function factory")
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="compute dtype of the frozen base; default float32 on cpu, bfloat16 on ascend"
    )
    fresh_head: bool = Field(False, description="classification: replace the base's own head by a new one")


class DataConfig(Section):
    path: tuple[str, ...] = Field(
        (), description="training files or folders, some rows of one: FILE#500; none: the embedded task"
    )
    eval_path: tuple[str, ...] = Field((), description="evaluation file or files")
    weights: tuple[float, ...] = Field((), description="how often each file of `path` is read in an epoch (1 = once)")
    task: Task | None = Field(None, description="classify, lm or instruct; default: from the columns and the family")
    format: Literal["jsonl", "json", "csv", "tsv", "text", "parquet", "npz", "separated"] | None = Field(
        None, description="file format; default: by content"
    )
    separator: str | None = Field(None, description="plain lines `input<separator>reference`, such as '||'")
    encoding: str | None = Field(
        None, description="of text files, such as gb18030; default: UTF-8, by the byte order mark, or detected"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="canonical column -> column in the file, {text: sentence}"
    )
    labels: tuple[str, ...] = Field((), description="label names in index order; default: sorted as found")
    regression: bool | None = Field(
        None,
        description="classify: labels are numbers to predict (true) or classes (false); default: numbers where one is no integer",
    )
    template: str | None = Field(
        None, description="jinja2 file or built-in name (plain, alpaca, chatml) that renders a row's prompt"
    )
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="variables of the template where a row sets none, {enable_thinking: false}; the delta keeps them",
    )
    ignore: tuple[str, ...] = Field((), description="columns that are not read")
    seq_len: int = Field(512, ge=2, description="longest row in tokens; longer rows are cut and counted")
    loss_on: Literal["completion", "all"] = Field("completion", description="instruct: which tokens are supervised")
    pack: bool = Field(False, description="fill sequences of seq_len tokens with several rows, without cross-talk")
    shuffle: bool = Field(True, description="false: batch k is rows k*B to k*B+B-1 of the file")
    eval_split: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of the training rows held out, where eval_path is not given"
    )
    on_bad_row: Literal["stop", "skip"] = Field(
        "stop",
        description="rows that cannot be used, such as rows without a label: stop and name them, or leave them out",
    )
    max_rows: int | None = Field(None, ge=1, description="read only this many rows of each file")
    buckets: int = Field(4, ge=1, le=64, description="most sequence lengths (compiled shapes) a run may use")
    cache: bool = Field(True, description="keep tokenised rows under the user's cache folder, keyed by content")

    _one_or_many = field_validator("path", "eval_path", "labels", "weights", "ignore", mode="before")(_as_many)


class OptimConfig(Section):
    lr: float | None = Field(None, gt=0, description="peak learning rate; default: the algorithm's own")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.01, ge=0, description="decoupled; not applied to biases and norms")
    decay_all: bool = Field(False, description="apply weight decay to biases and norms as well")
    clip: float = Field(1.0, ge=0, description="largest global gradient norm; 0 is off")
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float | None = Field(
        None, ge=0, description="below 1: share of all steps; else a number of steps; default 0.06, constant 0"
    )
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="where linear and cosine end, as a share of lr")


class TrainConfig(Section):
    epochs: float | None = Field(None, gt=0, description="passes over the data; default 3 where steps is not given")
    steps: int | None = Field(None, ge=1, description="optimizer steps; wins over epochs")
    batch_size: int = Field(16, ge=1, description="rows per micro-batch")
    accumulate: int = Field(1, ge=1, description="micro-batches per optimizer step")
    seed: int = Field(0, ge=0, lt=2**31)
    eval_every_steps: int | None = Field(
        None, ge=1, description="default: once an epoch, where there is evaluation data"
    )
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without improvement")
    best_metric: str | None = Field(
        None, description="metric that picks best.ckpt; default accuracy (classify) or loss"
    )
    loss_scale: float | None = Field(
        None, gt=0, description="initial dynamic loss scale; default 65536 for float16, off otherwise"
    )
    train_also: tuple[str, ...] = Field((), description="patterns of parameters to train and save beside the delta")
    save_every_steps: int | None = Field(
        None, ge=1, description="training state; default: after an evaluation, else at the end of an epoch"
    )
    keep_states: int = Field(2, ge=1, description="training states that are kept, beside the best delta")
    max_seconds: float | None = Field(
        None, gt=0, description="save and stop after the step that passes this time, such as 2h, 90m or 45s"
    )
    on_nan: Literal["stop", "skip", "rewind"] = Field(
        "stop",
        description="at a loss that is not finite: stop, leave the step out, or go back to the last state and leave it out",
    )

    spike_ratio: float | None = Field(
        None,
        gt=1,
        description="a loss over this many times the mean of the last 20 counts as one that is not finite; default: none does",
    )

    _one_or_many = field_validator("train_also", mode="before")(_as_many)
    _duration = field_validator("max_seconds", mode="before")(_as_seconds)

    @field_validator("spike_ratio")
    @classmethod
    def _undone(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("on_nan") == "skip":
            raise ValueError("must be left out with on_nan skip: a spike shows when its step is done; rewind undoes it")
        return value


class ParallelConfig(Section):
    auto: bool = Field(False, description="choose dp, tp, pp and zero by the memory of a card; --parallel auto")
    card_memory: float | None = Field(None, gt=0, description="GiB of a card, for auto; default 32")
    dp: int | None = Field(None, ge=1, description="ranks that read different data; default: all that tp and pp leave")
    tp: int = Field(1, ge=1, description="ranks that hold slices of each layer (tensor parallel)")
    pp: int = Field(1, ge=1, description="stages that hold different layers (pipeline parallel)")
    zero: int = Field(
        0, ge=0, le=3, description="dp ranks split: 1 the optimizer's state, 2 gradients too, 3 weights too"
    )
    micro_batches: int | None = Field(None, ge=1, description="parts that a pipeline cuts each batch into; default pp")
    sequence: bool = Field(False, description="between the layers, split tokens over the tp ranks")
    recompute: Literal["none", "select", "full"] = Field(
        "none",
        description="activations computed again for the backward pass: select = inside each layer, full = all of it",
    )
    offload: Literal["none", "optimizer"] = Field(
        "none", description="keep and update the optimizer's state on the host"
    )


class OutConfig(Section):
    dir: str | None = Field(None, description="run folder; default runs/<algo>-N, the next free number")
    format: Literal["ckpt", "safetensors"] = Field("ckpt", description="format of the delta file")


class EvalConfig(Section):
    batch_size: int | None = Field(None, ge=1, description="rows per batch; default train.batch_size")
    metrics: tuple[str, ...] = Field((), description="default: all that the task has without generation")
    max_new_tokens: int = Field(128, ge=1)
    samples: int = Field(
        3, ge=0, le=20, description="prompts answered before and after training, for its receipt; 0: none"
    )

    _one_or_many = field_validator("metrics", mode="before")(_as_many)


class RunConfig(Section):
    """A training run, resolved. `delta` is the config of the algorithm named by `algo`."""

    algo: str = "lora"
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    delta: SerializeAsAny[BaseModel]
    optim: OptimConfig = Field(default_factory=lambda: OptimConfig())
    train: TrainConfig = Field(default_factory=lambda: TrainConfig())
    parallel: ParallelConfig = Field(default_factory=lambda: ParallelConfig())
    eval: EvalConfig = Field(default_factory=lambda: EvalConfig())
    out: OutConfig = Field(default_factory=lambda: OutConfig())
    device: Literal["cpu", "ascend"] | None = Field(
        None, description="default: ascend where MindSpore finds a card, else cpu"
    )
    init_delta: str | None = Field(
        None, description="start from this delta: its method, settings, targets and heads hold"
    )
    delta_strategy: str | None = Field(
        None, description="strategy file, or folder of them, of a delta in the files of a job's ranks"
    )
