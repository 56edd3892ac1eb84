"""Every setting of a run: its key, type, default, unit, meaning, and its flag where it has one. Nothing else sets a default.

Keys are spelt `section.key` on the command line (`--set optim.beta2=0.95`). The options of `petrun train` and of the other commands that
take settings of a run are made from this module. A delta algorithm's own keys (`delta.*`) and their defaults stand in that
algorithm's file, petrun/delta/<algo>.py; petrun.config.flags names those that have a flag.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, Field, SerializeAsAny, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from petrun.config.image import ImageConfig
from petrun.config.options import DATA, DELTA, MODEL, OPTIM, PARALLEL, RUN, split_list
from petrun.config.preference import PreferenceConfig
from petrun.config.section import Section, setting
from petrun.typing import JsonObject

Task = Literal["classify", "lm", "instruct", "preference", "tokens", "image"]


def _as_many(value: object) -> object:
    """One value stands for a list of one."""
    return (value,) if isinstance(value, str | int | float) else value


def _as_labels(value: object) -> object:
    """Names of classes; a whole number is the name of its digits, as [-1, 1]."""
    found = _as_many(value)
    return [str(each) if type(each) is int else each for each in found] if isinstance(found, list | tuple) else found


def _as_names(value: object) -> object:
    """Read `a,b` as [a, b]: names hold no commas."""
    return tuple(split_list(value)) if isinstance(value, str) else value


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def _as_seconds(value: object) -> object:
    """2h, 1h30m, 90m, 45s -> seconds; a number is one already."""
    match = _DURATION.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    if match is None or not any(match.groups()):
        return value
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class ModelConfig(Section):
    base: str | None = setting(
        None,
        "Pretrained base: a Hugging Face folder, or a .safetensors or .ckpt file with config.json beside it. Default: the "
        "small base that petrun ships.",
        "--base",
        MODEL,
    )
    base_strategy: str | None = setting(
        None,
        "The strategy of a base in the files of a job's ranks (--base is then the folder of rank_0, rank_1, ...): a strategy file, "
        ".ckpt or .json, or the folder of its stages' files.",
        "--base-strategy",
        MODEL,
    )
    family: str | None = setting(
        None,
        "bert, gpt2, llama, opt, bloom, glm, chatglm, phi3, gemma, mixtral, qwen3_moe, roberta or t5 (also mistral, qwen2, qwen3, "
        "glm4, gemma2, gemma3_text, xlm-roberta, mt5) where config.json does not say, or your own factory: module:function or "
        "file.py:function.",
        "--model",
        MODEL,
    )
    config: str | None = Field(None, description="config.json, when it does not lie beside the base's file")
    kwargs: JsonObject = Field(default_factory=dict, description="keyword arguments for a module:function factory")
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="compute dtype of the frozen base; default float32 on cpu, bfloat16 on ascend"
    )
    fresh_head: bool = Field(False, description="classification: replace the base's own head by a new one")
    quant: Literal["int8", "nf4", "none"] | None = setting(
        None,
        "Hold the base's frozen linear layers in 8 bits (int8) or 4 (nf4); none: in full precision. Default: as the delta was "
        "trained, else as the base's files are.",
        "--base-bits",
        MODEL,
    )
    any_bits: bool = Field(False, description="use a delta that was trained on the same base in other bits")

    @field_validator("quant", mode="before")
    @classmethod
    def _bits(cls, value: object) -> object:
        """8 and 4 are the forms of so many bits."""
        return {"8": "int8", "4": "nf4"}.get(str(value), value)


class DataConfig(Section):
    path: tuple[str, ...] = setting(
        (),
        "Training file, or several, comma-separated, also by shares (a.jsonl:0.8,b.jsonl:0.2). Default: the embedded task's.",
        "--data",
        DATA,
    )
    eval_path: tuple[str, ...] = setting((), "Evaluation file, or several.", "--eval-data", DATA)
    weights: tuple[float, ...] = Field((), description="how often each file of `path` is read in an epoch (1 = once)")
    shares: tuple[float, ...] = Field(
        (),
        description="how large a share of the rows each file of `path` gives, such as [0.8, 0.2]; as --data a.jsonl:0.8,b.jsonl:0.2",
    )
    task: Task | None = setting(
        None,
        "classify, lm, instruct, preference, tokens or image. Default: from the columns (image: none, it must be given).",
        "--task",
        DATA,
    )
    format: str | None = Field(
        None, description="file format, such as jsonl (petrun/data/formats/table.py); default: by content"
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
    template: str | None = setting(
        None,
        "How a row becomes a prompt, for bases without a chat template: plain, alpaca, chatml, or a jinja2 file.",
        "--template",
        DATA,
    )
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="variables of the template where a row sets none, {enable_thinking: false}; the delta keeps them",
    )
    ignore: tuple[str, ...] = Field((), description="columns that are not read")
    seq_len: int = setting(
        512, "Longest row in tokens; longer ones are cut and counted. Default 512.", "--seq-len", DATA, ge=2
    )
    loss_on: Literal["completion", "all"] = Field("completion", description="instruct: which tokens are supervised")
    pack: bool = setting(
        False, "Fill sequences with several rows, without cross-talk. Default no.", "--pack/--no-pack", DATA
    )
    shuffle: bool = setting(
        True, "Keep the rows in the order of the file: batch k is rows k*B to k*B+B-1.", "--no-shuffle", DATA
    )
    eval_split: float = setting(
        0.0, "Hold out this share of the training rows for evaluation.", "--eval-split", DATA, ge=0.0, lt=1.0
    )
    on_bad_row: Literal["stop", "skip"] = setting(
        "stop",
        "Rows that cannot be used, such as rows without a label: stop and name them, or skip: leave them out, counted and "
        "written down. Default stop.",
        "--on-bad-row",
        DATA,
    )
    max_rows: int | None = Field(None, ge=1, description="read only this many rows of each file")
    buckets: int = Field(4, ge=1, le=64, description="most sequence lengths (compiled shapes) a run may use")
    cache: bool = Field(True, description="keep tokenised rows under the user's cache folder, keyed by content")

    _one_or_many = field_validator("path", "eval_path", "weights", "shares", "ignore", mode="before")(_as_many)
    _class_names = field_validator("labels", mode="before")(_as_labels)

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        # Read when it is needed: the readers import more than the settings may.
        from petrun.data.formats.table import format_names

        names = format_names()
        if value is not None and value not in names:
            expected = ", ".join(map(repr, names[:-1])) + f" or {names[-1]!r}"
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return value


class OptimConfig(Section):
    lr: float | None = setting(None, "Peak learning rate. Default: the algorithm's own.", "--lr", OPTIM, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW: smoothing of the gradients' mean")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW: smoothing of their squares")
    eps: float = Field(1e-8, gt=0, description="AdamW: added to the root of the squares before dividing")
    weight_decay: float = setting(
        0.01, "Decoupled weight decay, not on biases and norms. Default 0.01.", "--weight-decay", OPTIM, ge=0
    )
    decay_all: bool = Field(False, description="apply weight decay to biases and norms as well")
    clip: float = setting(1.0, "Largest global gradient norm; 0 is off. Default 1.", "--clip", OPTIM, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "cosine", "constant, linear or cosine. Default cosine.", "--schedule", OPTIM
    )
    warmup: float | None = setting(
        None, "Warm-up: a share of all steps below 1, else steps. Default 0.06 (constant: 0).", "--warmup", OPTIM, ge=0
    )
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="where linear and cosine end, as a share of lr")


class TrainConfig(Section):
    epochs: float | None = setting(None, "Passes over the data. Default 3.", "--epochs", OPTIM, gt=0)
    steps: int | None = setting(None, "Optimizer steps, instead of --epochs.", "--steps", OPTIM, ge=1)
    batch_size: int = setting(
        16, "Rows per micro-batch, on each data-parallel rank. Default 16.", "--batch-size", OPTIM, ge=1
    )
    accumulate: int = setting(
        1, "Micro-batches per optimizer step; exact per token. Default 1.", "--accumulate", OPTIM, ge=1
    )
    seed: int = setting(0, "Seed of initialisation, order and dropout. Default 0.", "--seed", RUN, ge=0, lt=2**31)
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
    neftune_alpha: float | None = setting(
        None,
        "NEFTune: uniform noise on the embedded tokens while training, at most this over the root of a row's tokens times features, "
        "such as 5. Default: none.",
        "--neftune-alpha",
        OPTIM,
        gt=0,
    )
    train_also: tuple[str, ...] = setting(
        (),
        "Parameters to train and save beside the delta, as globs over names, comma-separated ('pooler.*'). A classification "
        "task's head always is.",
        "--train-also",
        DELTA,
    )
    save_every_steps: int | None = setting(
        None,
        "Steps from one training state to the next. Default: after an evaluation, else at the end of an epoch.",
        "--save-every",
        RUN,
        ge=1,
    )
    keep_states: int = setting(2, "Training states to keep, beside the best delta. Default 2.", "--keep", RUN, ge=1)
    max_seconds: float | None = setting(
        None, "Save and stop after the step that passes this time: 2h, 90m, 1h30m, 45s.", "--max-time", RUN, gt=0
    )
    on_nan: Literal["stop", "skip", "rewind"] = setting(
        "stop",
        "At a loss or gradient that is not finite: stop, skip the step, or rewind to the last state and skip it. Default "
        "stop.",
        "--on-nan",
        RUN,
    )

    tracker: Literal["tensorboard", "mlflow", "swanlab", "wandb"] | None = setting(
        None,
        "Send the log to tensorboard, mlflow, swanlab or wandb as well, each offline by default. Default: to none.",
        "--tracker",
        RUN,
    )
    spike_ratio: float | None = setting(
        None,
        "A loss over this many times the mean of the last 20 steps' counts as one that is not finite. Default: none does.",
        "--spike",
        RUN,
        gt=1,
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
    card_memory: float | None = setting(
        None, "Memory of a card in GiB, for --parallel auto. Default 32.", "--card-memory", PARALLEL, gt=0
    )
    dp: int | None = Field(None, ge=1, description="ranks that read different data; default: all that tp and pp leave")
    tp: int = Field(1, ge=1, description="ranks that hold slices of each layer (tensor parallel)")
    pp: int = Field(1, ge=1, description="stages that hold different layers (pipeline parallel)")
    zero: int = Field(
        0, ge=0, le=3, description="dp ranks split: 1 the optimizer's state, 2 gradients too, 3 weights too"
    )
    micro_batches: int | None = Field(None, ge=1, description="parts that a pipeline cuts each batch into; default pp")
    sequence: bool = Field(False, description="between the layers, split tokens over the tp ranks")
    recompute: Literal["none", "select", "full"] = setting(
        "none",
        "Activations computed again for the backward pass: none, select (inside each layer) or full. Default none.",
        "--recompute",
        PARALLEL,
    )
    offload: Literal["none", "optimizer"] = setting(
        "none",
        "optimizer: keep and update the optimizer's state in the host's memory. Default none.",
        "--offload",
        PARALLEL,
    )


class OutConfig(Section):
    dir: str | None = setting(None, "Run folder. Default runs/<algo>-N, the next free number.", "--out", RUN)
    format: Literal["ckpt", "safetensors"] = setting(
        "ckpt", "Delta file: ckpt (MindSpore) or safetensors. Default ckpt.", "--format", RUN
    )


class EvalConfig(Section):
    batch_size: int | None = setting(None, "Rows per batch. Default 16.", "--batch-size", RUN, ge=1)
    metrics: tuple[str, ...] = setting(
        (),
        "Comma-separated: accuracy, f1_macro, matthews, entity_f1, entity_precision, entity_recall, "
        "loss, mse, pearson, spearman, perplexity, token_accuracy, "
        "reward_accuracy, reward_margin, chosen_gain, preference_accuracy, "
        "desirable_margin, desirable_gain, undesirable_gain, kl, "
        "exact_match, bleu, rouge1, rouge2, rougeL, or all. Default: those that need no generation.",
        "--metrics",
        RUN,
    )
    max_new_tokens: int = setting(
        128, "Longest generated answer in tokens. Default 128.", "--max-new-tokens", RUN, ge=1
    )
    samples: int = Field(
        3, ge=0, le=20, description="prompts answered before and after training, for its receipt; 0: none"
    )

    _one_or_many = field_validator("metrics", mode="before")(_as_names)


class RunConfig(Section):
    """A training run, resolved. `delta` is the config of the algorithm named by `algo`."""

    algo: str = setting(
        "lora",
        "Delta algorithm: {names}; +bitfit, +rows and +r_drop join others (lora+r_drop). `petrun algorithms` describes them and their "
        "settings. Default lora.",
        "--algo",
        DELTA,
    )
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    delta: SerializeAsAny[BaseModel]
    optim: OptimConfig = Field(default_factory=lambda: OptimConfig())
    train: TrainConfig = Field(default_factory=lambda: TrainConfig())
    preference: PreferenceConfig = Field(default_factory=lambda: PreferenceConfig())
    image: ImageConfig = Field(default_factory=lambda: ImageConfig())
    parallel: ParallelConfig = setting(
        None,
        "How the job's ranks are laid out, as dp=2,tp=4,pp=1,zero=1 (also micro_batches, sequence). What is left out: pp=1, "
        "tp=1, zero=0, and dp takes all that these leave. auto: by the memory of a card (--card-memory), and why.",
        "--parallel",
        PARALLEL,
        factory=lambda: ParallelConfig(),
    )
    eval: EvalConfig = Field(default_factory=lambda: EvalConfig())
    out: OutConfig = Field(default_factory=lambda: OutConfig())
    device: Literal["cpu", "ascend"] | None = setting(
        None, "cpu or ascend. Default: ascend where a card is found, else cpu.", "--device", RUN
    )
    compile_cache: bool = setting(
        True,
        "Compile every graph anew, instead of loading those that an earlier process compiled and kept under the user's cache folder.",
        "--no-compile-cache",
        RUN,
    )
    memory_check: bool = setting(
        True, "Start the run also where the memory plan says that it cannot fit.", "--no-memory-check", RUN
    )
    init_delta: str | None = setting(
        None,
        "Start from this delta (petrun file, run folder or peft folder): its method, settings, targets and heads hold.",
        "--init-delta",
        DELTA,
    )
    delta_strategy: str | None = setting(
        None,
        "The strategy of a delta in the files of a job's ranks: that of the fine-tuning.",
        "--delta-strategy",
        MODEL,
    )
