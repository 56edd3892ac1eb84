"""`petrun train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from petrun.cli import cluster, options
from petrun.cli.options import DATA, RUN, Flag, Number, Text, Whole, given, option, split_list
from petrun.cli.signals import told_apart

DELTA = "Delta"
OPTIM = "Optimisation"
PARALLEL = "Parallel"


def train(
    context: typer.Context,
    recipe: Annotated[
        Text,
        typer.Argument(
            help="A recipe: a YAML file, or the name of a shipped one (`petrun recipes ls`).",
            show_default=False,
            autocompletion=options.complete_recipe,
        ),
    ] = None,
    algo: Annotated[
        Text,
        option(
            "--algo",
            f"Delta algorithm: {', '.join(options.ALGORITHMS)}; +bitfit and +r_drop join any other (lora+r_drop). "
            "`petrun algorithms` describes them and their settings. Default lora.",
            DELTA,
            autocompletion=options.complete_algorithm,
        ),
    ] = None,
    rank: Annotated[Whole, option("--rank", "Rank of LoRA and AdaLoRA. Default 8.", DELTA)] = None,
    alpha: Annotated[
        Number, option("--alpha", "LoRA scale: the update is multiplied by alpha / rank. Default 16.", DELTA)
    ] = None,
    dropout: Annotated[Number, option("--dropout", "Dropout on LoRA's input while training. Default 0.", DELTA)] = None,
    tokens: Annotated[
        Whole, option("--tokens", "Virtual tokens of prefix, ptuning2, prompt and ptuning. Default 20.", DELTA)
    ] = None,
    target: Annotated[
        Text,
        option(
            "--target",
            "Layers to adapt, comma-separated: roles (q,v), Hugging Face names (query,value), globs over full paths "
            "('layers.*.attn.*'), or all-linear. Default: the family's (bert and llama q,v; gpt2 qkv).",
            DELTA,
        ),
    ] = None,
    exclude: Annotated[
        Text, option("--exclude", "Layers to take away from --target, in the same terms.", DELTA)
    ] = None,
    train_also: Annotated[
        Text,
        option(
            "--train-also",
            "Parameters to train and save beside the delta, as globs over names, comma-separated ('pooler.*'). A classification "
            "task's head always is.",
            DELTA,
        ),
    ] = None,
    init_delta: Annotated[
        Text,
        option(
            "--init-delta",
            "Start from this delta (petrun file, run folder or peft folder): its method, settings, targets and heads hold.",
            DELTA,
        ),
    ] = None,
    base: options.Base = None,
    base_strategy: options.BaseStrategy = None,
    delta_strategy: options.DeltaStrategy = None,
    model: options.Model = None,
    data: Annotated[
        Text, option("--data", "Training file, or several, comma-separated. None: the task that petrun ships.", DATA)
    ] = None,
    eval_data: Annotated[Text, option("--eval-data", "Evaluation file, or several.", DATA)] = None,
    eval_split: Annotated[
        Number, option("--eval-split", "Hold out this share of the training rows for evaluation.", DATA)
    ] = None,
    on_bad_row: options.OnBadRow = None,
    task: Annotated[
        Text,
        option(
            "--task",
            "classify, lm or instruct. Default: from the columns.",
            DATA,
            autocompletion=options.complete_key("data.task"),
        ),
    ] = None,
    template: Annotated[
        Text,
        option(
            "--template",
            "How a row becomes a prompt, for bases without a chat template: plain, alpaca, chatml, or a jinja2 file.",
            DATA,
        ),
    ] = None,
    seq_len: Annotated[
        Whole, option("--seq-len", "Longest row in tokens; longer ones are cut and counted. Default 512.", DATA)
    ] = None,
    pack: Annotated[
        Flag, option("--pack/--no-pack", "Fill sequences with several rows, without cross-talk. Default no.", DATA)
    ] = None,
    no_shuffle: Annotated[bool, option("--no-shuffle", "Batch k is rows k*B to k*B+B-1 of the file.", DATA)] = False,
    epochs: Annotated[Number, option("--epochs", "Passes over the data. Default 3.", OPTIM)] = None,
    steps: Annotated[Whole, option("--steps", "Optimizer steps, instead of --epochs.", OPTIM)] = None,
    batch_size: Annotated[
        Whole, option("--batch-size", "Rows per micro-batch, on each data-parallel rank. Default 16.", OPTIM)
    ] = None,
    accumulate: Annotated[
        Whole, option("--accumulate", "Micro-batches per optimizer step; exact per token. Default 1.", OPTIM)
    ] = None,
    lr: Annotated[Number, option("--lr", "Peak learning rate. Default: the algorithm's own.", OPTIM)] = None,
    schedule: Annotated[
        Text,
        option(
            "--schedule",
            "constant, linear or cosine. Default cosine.",
            OPTIM,
            autocompletion=options.complete_key("optim.schedule"),
        ),
    ] = None,
    warmup: Annotated[
        Number,
        option("--warmup", "Warm-up: a share of all steps below 1, else steps. Default 0.06 (constant: 0).", OPTIM),
    ] = None,
    weight_decay: Annotated[
        Number, option("--weight-decay", "Decoupled weight decay, not on biases and norms. Default 0.01.", OPTIM)
    ] = None,
    clip: Annotated[Number, option("--clip", "Largest global gradient norm; 0 is off. Default 1.", OPTIM)] = None,
    parallel: Annotated[
        Text,
        option(
            "--parallel",
            "How the job's ranks are laid out, as dp=2,tp=4,pp=1,zero=1 (also micro_batches, sequence). What is left out: pp=1, tp=1, "
            "zero=0, and dp takes all that these leave. auto: by the memory of a card (--card-memory), and why.",
            PARALLEL,
        ),
    ] = None,
    card_memory: Annotated[
        Number, option("--card-memory", "Memory of a card in GiB, for --parallel auto. Default 32.", PARALLEL)
    ] = None,
    recompute: Annotated[
        Text,
        option(
            "--recompute",
            "Activations computed again for the backward pass: none, select (inside each layer) or full. Default none.",
            PARALLEL,
            autocompletion=options.complete_key("parallel.recompute"),
        ),
    ] = None,
    offload: Annotated[
        Text,
        option(
            "--offload",
            "optimizer: keep and update the optimizer's state in the host's memory. Default none.",
            PARALLEL,
            autocompletion=options.complete_key("parallel.offload"),
        ),
    ] = None,
    cards: cluster.Cards = None,
    hosts: cluster.Hosts = None,
    host_rank: cluster.HostRank = None,
    master_addr: cluster.MasterAddr = None,
    master_port: cluster.MasterPort = None,
    rank_table: cluster.RankTable = None,
    max_restarts: cluster.MaxRestarts = None,
    grace: cluster.Grace = None,
    log_dir: cluster.LogDir = None,
    out: Annotated[Text, option("--out", "Run folder. Default runs/<algo>-N, the next free number.", RUN)] = None,
    fmt: Annotated[
        Text,
        option(
            "--format",
            "Delta file: ckpt (MindSpore) or safetensors. Default ckpt.",
            RUN,
            autocompletion=options.complete_key("out.format"),
        ),
    ] = None,
    seed: Annotated[Whole, option("--seed", "Seed of initialisation, order and dropout. Default 0.", RUN)] = None,
    resume: Annotated[
        Text,
        option(
            "--resume",
            "Go on with the unfinished run in this folder. An unfinished run of the same settings in --out goes on by itself.",
            RUN,
        ),
    ] = None,
    allow: options.Allow = None,
    save_every: options.SaveEvery = None,
    keep: options.Keep = None,
    max_time: options.MaxTime = None,
    on_nan: options.OnNan = None,
    spike: options.Spike = None,
    device: options.Device = None,
    settings: options.Set = None,
    dry_run: Annotated[
        bool, option("--dry-run", "Print the plan and the first rows with their loss mask, then stop.", RUN)
    ] = False,
    preflight: Annotated[
        bool,
        option(
            "--preflight",
            "Check what a job needs, a line each, then stop: cards, disk, and with --hosts versions, settings, files, clocks, addresses "
            "and a shared --out; at last a sum over all ranks. No base is loaded. Several hosts do that before every job.",
            cluster.CLUSTER,
        ),
    ] = False,
) -> None:
    """Fine-tune a base with a delta algorithm and save only what was trained.

    With nothing but --algo, the embedded base is tuned on the embedded task. An example with your own files:

        petrun train --algo lora --rank 8 --base ./bert --data train.tsv --eval-data dev.tsv
    """
    typed = locals()
    allowed = split_list(allow) or []
    asked = cluster.given_flags(typed)
    if asked:
        said = (recipe, train_flags(typed), settings or [])
        code = cluster.launch(
            context, asked, said, resume=resume, allowed=allowed, dry_run=dry_run, preflight=preflight
        )
        if code is not None:
            raise typer.Exit(code)
    with told_apart():
        # Imported here so that --help does not wait for MindSpore.
        from petrun.commands.train import run

        flags = train_flags(typed)
        run(recipe, flags, settings or [], dry_run=dry_run, preflight=preflight, resume=resume, allow=allowed)


def train_flags(typed: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """The options above that were typed, by their parameter's name -> {dotted key: (flag, value)}. Raises ConfigError."""
    from petrun.parallel.layout import parse_layout

    flags = given(
        {
            "algo": ("--algo", typed["algo"]),
            "delta.rank": ("--rank", typed["rank"]),
            "delta.alpha": ("--alpha", typed["alpha"]),
            "delta.dropout": ("--dropout", typed["dropout"]),
            "delta.tokens": ("--tokens", typed["tokens"]),
            "delta.target": ("--target", split_list(typed["target"])),
            "delta.exclude": ("--exclude", split_list(typed["exclude"])),
            "train.train_also": ("--train-also", split_list(typed["train_also"])),
            "init_delta": ("--init-delta", typed["init_delta"]),
            "model.base": ("--base", typed["base"]),
            "model.base_strategy": ("--base-strategy", typed["base_strategy"]),
            "delta_strategy": ("--delta-strategy", typed["delta_strategy"]),
            "model.family": ("--model", typed["model"]),
            "data.path": ("--data", split_list(typed["data"])),
            "data.eval_path": ("--eval-data", split_list(typed["eval_data"])),
            "data.on_bad_row": ("--on-bad-row", typed["on_bad_row"]),
            "data.eval_split": ("--eval-split", typed["eval_split"]),
            "data.task": ("--task", typed["task"]),
            "data.template": ("--template", typed["template"]),
            "data.seq_len": ("--seq-len", typed["seq_len"]),
            "data.pack": ("--pack", typed["pack"]),
            "data.shuffle": ("--no-shuffle", False if typed["no_shuffle"] else None),
            "train.epochs": ("--epochs", typed["epochs"]),
            "train.steps": ("--steps", typed["steps"]),
            "train.batch_size": ("--batch-size", typed["batch_size"]),
            "train.accumulate": ("--accumulate", typed["accumulate"]),
            "train.seed": ("--seed", typed["seed"]),
            "optim.lr": ("--lr", typed["lr"]),
            "optim.schedule": ("--schedule", typed["schedule"]),
            "optim.warmup": ("--warmup", typed["warmup"]),
            "optim.weight_decay": ("--weight-decay", typed["weight_decay"]),
            "optim.clip": ("--clip", typed["clip"]),
            "parallel.card_memory": ("--card-memory", typed["card_memory"]),
            "parallel.recompute": ("--recompute", typed["recompute"]),
            "parallel.offload": ("--offload", typed["offload"]),
            "out.dir": ("--out", typed["out"]),
            "out.format": ("--format", typed["fmt"]),
            "device": ("--device", typed["device"]),
            **options.saving(typed["save_every"], typed["keep"], typed["max_time"], typed["on_nan"], typed["spike"]),
        }
    )
    if typed["parallel"] == "auto":
        flags["parallel.auto"] = ("--parallel", True)
    elif typed["parallel"] is not None:
        flags |= {f"parallel.{key}": ("--parallel", value) for key, value in parse_layout(typed["parallel"]).items()}
    return flags
