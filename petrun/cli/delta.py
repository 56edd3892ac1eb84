"""`petrun delta info|diff|add|scale|compress|extract|convert`: deltas as files; no model is loaded."""

from __future__ import annotations

import re
from typing import Any

import typer

from petrun.cli.command import Command, LazyCommand
from petrun.config.commands.delta import (
    AddSettings,
    CompressSettings,
    ConvertSettings,
    DiffSettings,
    ExtractSettings,
    InfoSettings,
    ScaleSettings,
)

app = typer.Typer(help="Arithmetic and conversions of deltas, on files.", no_args_is_help=True)

_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class NegativeNumbers(LazyCommand):
    """A command with numbers among its arguments: -1 is a number, not a misspelt option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the numbers after `--`, where everything is an argument; they must be the last of the arguments."""
        end = args.index("--") if "--" in args else len(args)
        takes_value = {one.option.flag for one in self.source.given if not one.is_switch}
        numbers = [
            position
            for position, word in enumerate(args[:end])
            if _NEGATIVE.fullmatch(word) and not (position and args[position - 1] in takes_value)
        ]
        rest = [word for position, word in enumerate(args[:end]) if position not in numbers]
        behind = [args[position] for position in numbers] + args[end + 1 :]
        return super().parse_args(ctx, [*rest, "--", *behind] if behind else rest)


def info(settings: InfoSettings) -> None:
    """Show the manifest, the tensors, and the norm of what is added to every layer.

    petrun delta info runs/lora-1
    """
    from petrun.commands.delta.info import run

    run(settings)


def diff(settings: DiffSettings) -> None:
    """Compare two deltas of one base: settings, and layer by layer the norms, the cosine and the difference.

    petrun delta diff runs/lora-1 runs/lora-2
    """
    from petrun.commands.delta.diff import run

    run(settings)


def add(settings: AddSettings) -> None:
    """Add deltas of one base. LoRA and its variants are added exactly, by joining the factors, and truncated to --rank or --energy if
    asked.

    petrun delta add runs/a:0.7 runs/b:0.3 --out ab.ckpt --energy 0.99
    """
    from petrun.commands.delta.add import run

    run(settings)


def scale(settings: ScaleSettings) -> None:
    """Multiply a delta by a factor. The matrices stay as they are: alpha changes.

    petrun delta scale runs/lora-1 --out half.ckpt 0.5
    """
    from petrun.commands.delta.scale import run

    run(settings)


def compress(settings: CompressSettings) -> None:
    """Truncate every layer of a LoRA to fewer ranks, by singular values, and say what is lost.

    petrun delta compress runs/lora-1 --rank 4 --out small.ckpt
    """
    from petrun.commands.delta.compress import run

    run(settings)


def extract(settings: ExtractSettings) -> None:
    """Make a LoRA of the difference between a tuned model and its base, layer by layer, and say what it misses.

    petrun delta extract --base ./llama --tuned ./llama-chat --rank 32 --out chat.ckpt
    """
    from petrun.commands.delta.extract import run

    run(settings)


def convert(settings: ConvertSettings) -> None:
    """Write a delta in another tool's files: petrun's, a peft adapter folder, one that vLLM loads, a GGUF adapter, or a MindPet checkpoint.

    petrun delta convert runs/lora-1 --to peft --base ./llama --out adapter
    """
    from petrun.commands.delta.convert import run

    run(settings)


_SOURCE = ("base", "family", "alpha")
CONVERT_OPTIONS = ("delta", "out", "to", "as_algo", *_SOURCE, "task", "check", "tolerance", "probe", "peft_python")
COMMANDS: tuple[Command[Any], ...] = (
    Command(name="info", settings=InfoSettings, run=info, options=("delta", "as_json", "every")),
    Command(name="diff", settings=DiffSettings, run=diff, options=("first", "second", *_SOURCE, "as_json", "every")),
    Command(
        name="add",
        settings=AddSettings,
        run=add,
        options=("deltas", "out", "method", "density", "drop", "seed", "rank", "energy", *_SOURCE),
    ),
    Command(
        name="scale",
        settings=ScaleSettings,
        run=scale,
        options=("delta", "factor", "out", *_SOURCE),
        cls=NegativeNumbers,
    ),
    Command(
        name="compress", settings=CompressSettings, run=compress, options=("delta", "out", "rank", "energy", *_SOURCE)
    ),
    Command(
        name="extract",
        settings=ExtractSettings,
        run=extract,
        options=("base", "tuned", "out", "rank", "energy", "target", "rest", "family"),
    ),
    Command(
        name="convert",
        settings=ConvertSettings,
        run=convert,
        options=CONVERT_OPTIONS,
    ),
)
for command in COMMANDS:
    command.add_to(app)
