"""Options that several commands share, spelt once."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, get_args, get_origin

import typer
from typer.core import TyperCommand

import petrun

Text = Optional[str]  # noqa: UP045 (typer reads the annotation at run time)
Whole = Optional[int]  # noqa: UP045
Number = Optional[float]  # noqa: UP045
Flag = Optional[bool]  # noqa: UP045
Texts = Optional[list[str]]  # noqa: UP045


_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class NegativeNumbers(TyperCommand):
    """A command with numbers among its arguments: -1 is one, and no misspelt option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The numbers go behind `--`, where everything is an argument; they must be the last of the arguments."""
        end = args.index("--") if "--" in args else len(args)
        takes_value = {name for one in self.params if not getattr(one, "is_flag", True) for name in one.opts}
        numbers = [
            place
            for place, word in enumerate(args[:end])
            if _NEGATIVE.fullmatch(word) and not (place and args[place - 1] in takes_value)
        ]
        rest = [word for place, word in enumerate(args[:end]) if place not in numbers]
        behind = [args[place] for place in numbers] + args[end + 1 :]
        return super().parse_args(ctx, [*rest, "--", *behind] if behind else rest)


def option(name: str, text: str, panel: str | None = None, **more: Any) -> Any:
    """A typer.Option without a shown default: the help text states it, because None means "not given"."""
    return typer.Option(name, help=text, rich_help_panel=panel, show_default=False, **more)


Completer = Callable[[str], list[str]]
"""What was typed so far -> what it may become. Called by the shell, so it must not import MindSpore."""


def _algorithms() -> tuple[str, ...]:
    """Names of petrun.delta.METHODS, read off the source of that table: to import it takes MindSpore, and seconds."""
    source = Path(petrun.__file__).parent / "delta" / "__init__.py"
    for node in ast.parse(source.read_text("utf-8")).body:
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.value, ast.Dict)
            and ast.unparse(node.target) == "METHODS"
        ):
            return tuple(sorted(ast.literal_eval(key) for key in node.value.keys if key is not None))
    raise AssertionError(f"{source} has no literal table METHODS")


ALGORITHMS = _algorithms()


def complete_algorithm(incomplete: str) -> list[str]:
    return [name for name in ALGORITHMS if name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    from petrun.config.load import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_key(key: str) -> Completer:
    """Completes the values that the schema allows for a key such as `optim.schedule`."""

    def complete(incomplete: str) -> list[str]:
        from petrun.config.schema import RunConfig

        section, _, leaf = key.rpartition(".")
        fields = RunConfig.model_fields
        if section:
            fields = getattr(fields[section].annotation, "model_fields")  # noqa: B009 (a class, for the type checker Any)
        return [value for value in _literals(fields[leaf].annotation) if value.startswith(incomplete)]

    return complete


def _literals(annotation: Any) -> list[str]:
    """The strings of a Literal, or of the Literals in a union."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for part in get_args(annotation) for value in _literals(part)]


MODEL = "Model"
DATA = "Data"
RUN = "Run"

Base = Annotated[
    Text,
    option(
        "--base",
        "Pretrained base: a Hugging Face folder, or a .safetensors or .ckpt file with config.json beside it. "
        "None: the small base that petrun ships.",
        MODEL,
    ),
]
BaseStrategy = Annotated[
    Text,
    option(
        "--base-strategy",
        "Of a base in the files of a job's ranks (--base is then the folder of rank_0, rank_1, ...): its strategy file, .ckpt or .json, or "
        "the folder of its stages' files.",
        MODEL,
    ),
]
DeltaStrategy = Annotated[
    Text,
    option("--delta-strategy", "The same of a delta in the files of a job's ranks: the fine-tuning's strategy.", MODEL),
]
Model = Annotated[
    Text,
    option(
        "--model",
        "bert, gpt2 or llama (also mistral, qwen2, qwen3) where config.json does not say, or your own factory: "
        "module:function or file.py:function.",
        MODEL,
    ),
]
Delta = Annotated[
    Text,
    option("--delta", "Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint.", MODEL),
]
NamedDeltas = Annotated[
    Texts,
    option(
        "--delta",
        "Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint. Repeatable; called by the name of its "
        "file or folder, or as you name it.",
        MODEL,
        metavar="[NAME=]PATH",
    ),
]
TemplateForAll = Annotated[
    Text,
    option(
        "--template",
        "Prompt template for all: a jinja2 file, plain, alpaca, chatml or chat. Default: each delta's own.",
        MODEL,
    ),
]
Alpha = Annotated[
    Number, option("--alpha", "LoRA alpha of a delta whose file does not say it (MindPet checkpoints).", MODEL)
]
Task = Annotated[
    Text,
    option(
        "--task",
        "classify, lm or instruct. Default: from the delta, else from the columns.",
        DATA,
        autocompletion=complete_key("data.task"),
    ),
]
SeqLen = Annotated[Whole, option("--seq-len", "Longest row in tokens; longer ones are cut and counted.", DATA)]
BatchSize = Annotated[Whole, option("--batch-size", "Rows per batch. Default 16.", RUN)]
Device = Annotated[
    Text,
    option(
        "--device",
        "cpu or ascend. Default: ascend where a card is found, else cpu.",
        RUN,
        autocompletion=complete_key("device"),
    ),
]
Allow = Annotated[
    Text,
    option(
        "--allow",
        "Settings that may differ from what the run was begun with, comma-separated: optim.lr,data.path.",
        RUN,
    ),
]
SaveEvery = Annotated[
    Whole,
    option(
        "--save-every",
        "Steps from one training state to the next. Default: after an evaluation, else at the end of an epoch.",
        RUN,
    ),
]
Keep = Annotated[Whole, option("--keep", "Training states to keep, beside the best delta. Default 2.", RUN)]
MaxTime = Annotated[
    Text, option("--max-time", "Save and stop after the step that passes this time: 2h, 90m, 1h30m, 45s.", RUN)
]
OnNan = Annotated[
    Text,
    option(
        "--on-nan",
        "At a loss or gradient that is not finite: stop, skip the step, or rewind to the last state and skip it. Default stop.",
        RUN,
        autocompletion=complete_key("train.on_nan"),
    ),
]
Set = Annotated[
    Texts,
    option(
        "--set", "Set any key, over recipe and flags: --set optim.beta2=0.95. Repeatable.", RUN, metavar="KEY=VALUE"
    ),
]


OnBadRow = Annotated[
    Text,
    option(
        "--on-bad-row",
        "Rows that cannot be used, such as rows without a label: stop and name them, or skip: leave them out, counted and written "
        "down. Default stop.",
        DATA,
        autocompletion=complete_key("data.on_bad_row"),
    ),
]

Spike = Annotated[
    Number,
    option(
        "--spike",
        "A loss over this many times the mean of the last 20 steps' counts as one that is not finite. Default: none does.",
        RUN,
    ),
]


def saving(
    save_every: int | None, keep: int | None, max_time: str | None, on_nan: str | None, spike: float | None
) -> dict[str, tuple[str, Any]]:
    """What `train` and `resume` are told about states, for `given`."""
    return {
        "train.save_every_steps": ("--save-every", save_every),
        "train.keep_states": ("--keep", keep),
        "train.max_seconds": ("--max-time", max_time),
        "train.on_nan": ("--on-nan", on_nan),
        "train.spike_ratio": ("--spike", spike),
    }


def given(pairs: dict[str, tuple[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Only the flags that were typed."""
    return {key: (flag, value) for key, (flag, value) in pairs.items() if value is not None}


def split_list(text: str | None) -> list[str] | None:
    """`a,b` -> [a, b]."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
