"""`petrun delta info|diff|add|scale|compress|extract|convert`: deltas as files; no model is loaded."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from petrun.cli import options
from petrun.cli.options import RUN, Flag, Number, Text, Whole, option, split_list

app = typer.Typer(help="Arithmetic and conversions of deltas, on files.", no_args_is_help=True)

One = Annotated[
    str, typer.Argument(help="Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint.")
]
Out = Annotated[Text, option("--out", "Delta to write: .ckpt or .safetensors. Must not exist.", RUN)]
Base = Annotated[
    Text,
    option(
        "--base",
        "The deltas' base. Needed for deltas of other tools, and for sums of whole parameters whose weights do not add up to 1.",
        options.MODEL,
    ),
]
Rank = Annotated[Whole, option("--rank", "Highest rank of a layer in the result.", RUN)]
Energy = Annotated[Number, option("--energy", "Share of the squared singular values to keep, such as 0.99.", RUN)]
Json = Annotated[bool, option("--json", "Print one JSON object.")]
All = Annotated[bool, option("--all", "List every layer and tensor, not only the first ones.")]


@app.command("info")
def info(delta: One, as_json: Json = False, every: All = False) -> None:
    """Show the manifest, the tensors, and the norm of what is added to every layer."""
    from petrun.commands.delta.info import run

    run(delta, as_json=as_json, every=every)


@app.command("diff")
def diff(
    first: One,
    second: One,
    base: Base = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
    as_json: Json = False,
    every: All = False,
) -> None:
    """Compare two deltas of one base: settings, and layer by layer the norms, the cosine and the difference."""
    from petrun.commands.delta.diff import run
    from petrun.inference.delta_opener import DeltaSources

    run(first, second, sources=DeltaSources(base=base, family=model, alpha=alpha), as_json=as_json, every=every)


@app.command("add")
def add(
    deltas: Annotated[
        list[str], typer.Argument(help="PATH or PATH:WEIGHT, two or more. Default weight 1.", metavar="PATH:WEIGHT...")
    ],
    out: Out = None,
    method: Annotated[
        str,
        typer.Option("--method", help="sum (exact), ties or dare.", rich_help_panel=RUN),
    ] = "sum",
    density: Annotated[
        Number, option("--density", "ties: share of each change's entries that stays. Default 0.2.", RUN)
    ] = None,
    drop: Annotated[Number, option("--drop", "dare: probability that an entry is dropped. Default 0.9.", RUN)] = None,
    seed: Annotated[Whole, option("--seed", "dare: seed of what is dropped. Default 0.", RUN)] = None,
    rank: Rank = None,
    energy: Energy = None,
    base: Base = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
) -> None:
    """Add deltas of one base. LoRA's kin is added exactly, by joining the factors, and cut to --rank or --energy if asked.

    petrun delta add runs/a:0.7 runs/b:0.3 --out ab.ckpt --energy 0.99
    """
    from petrun.commands.delta.add import SumSettings, run
    from petrun.inference.delta_opener import DeltaSources

    settings = SumSettings(method=method, density=density, drop=drop, seed=seed, rank=rank, energy=energy)
    run(deltas, out=out, sources=DeltaSources(base=base, family=model, alpha=alpha), settings=settings)


@app.command("scale", cls=options.NegativeNumbers)
def scale(
    delta: One,
    factor: Annotated[float, typer.Argument(help="What the delta is multiplied by.")],
    out: Out = None,
    base: Base = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
) -> None:
    """Multiply a delta by a factor. The matrices stay as they are: alpha changes."""
    from petrun.commands.delta.scale import run
    from petrun.inference.delta_opener import DeltaSources

    run(delta, factor, out=out, sources=DeltaSources(base=base, family=model, alpha=alpha))


@app.command("compress")
def compress(
    delta: One,
    out: Out = None,
    rank: Rank = None,
    energy: Energy = None,
    base: Base = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
) -> None:
    """Truncate every layer of a LoRA to fewer ranks, by singular values, and say what is lost."""
    from petrun.commands.delta.compress import run
    from petrun.inference.delta_opener import DeltaSources

    run(delta, out=out, rank=rank, energy=energy, sources=DeltaSources(base=base, family=model, alpha=alpha))


@app.command("extract")
def extract(
    base: options.Base = None,
    tuned: Annotated[Text, option("--tuned", "The tuned model: a folder or file like --base.", options.MODEL)] = None,
    out: Out = None,
    rank: Rank = None,
    energy: Energy = None,
    target: Annotated[Text, option("--target", "Layers, as in train. Default: all-linear.", RUN)] = None,
    rest: Annotated[
        Flag,
        typer.Option(
            "--rest/--no-rest",
            help="Keep what differs outside of the layers, whole. Default: keep.",
            show_default=False,
        ),
    ] = None,
    model: options.Model = None,
) -> None:
    """Make a LoRA of the difference between a tuned model and its base, layer by layer, and say what it misses.

    petrun delta extract --base ./llama --tuned ./llama-chat --rank 32 --out chat.ckpt
    """
    from petrun.commands.delta.extract import run

    names: Any = split_list(target)
    run(
        base=base,
        tuned=tuned,
        out=out,
        family=model,
        target=tuple(names) if names else None,
        rank=rank,
        energy=energy,
        keep_rest=rest is not False,
    )


@app.command("convert")
def convert(
    delta: One,
    out: Annotated[
        Text, option("--out", "A .ckpt or .safetensors file, or a folder for peft. Must not exist.", RUN)
    ] = None,
    to: Annotated[
        Text, option("--to", "petrun, peft or mindpet. Default: petrun for a file, peft for a folder.", RUN)
    ] = None,
    as_algo: Annotated[
        Text, option("--as", "lora: write pissa, rslora or adalora as the plain LoRA that they are.", RUN)
    ] = None,
    base: Base = None,
    model: options.Model = None,
    alpha: options.Alpha = None,
    task: Annotated[
        Text, option("--task", "peft: classify, lm or instruct, where the delta does not say it.", RUN)
    ] = None,
) -> None:
    """Write a delta in another tool's files: petrun's, a peft adapter folder, or a MindPet checkpoint.

    petrun delta convert runs/lora-1 --to peft --base ./llama --out adapter
    """
    from petrun.commands.delta.convert import ConvertSettings, run
    from petrun.inference.delta_opener import DeltaSources

    settings = ConvertSettings(to=to, as_algo=as_algo, task=task)
    run(delta, out=out, sources=DeltaSources(base=base, family=model, alpha=alpha), settings=settings)
