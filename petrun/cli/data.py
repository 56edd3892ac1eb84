"""`petrun data ...`: files of rows in, files of rows out."""

from __future__ import annotations

from typing import Any

import typer

from petrun.cli.command import Command
from petrun.cli.evaluate import SEQ_LEN
from petrun.config.commands.data import (
    BacktranslateSettings,
    CleanSettings,
    ConvertRowsSettings,
    HeadSettings,
    MixSettings,
    ShotsSettings,
    SplitSettings,
    StatsSettings,
)
from petrun.config.commands.data_scores import RateSettings, ScoreSettings, SelectSettings

app = typer.Typer(
    help="Rows of data files: count, convert, clean, score, select, split and mix them.", no_args_is_help=True
)


def stats(settings: StatsSettings) -> None:
    """Count what files of rows hold: columns, lengths, languages, labels, equal rows, and rows that look wrong.

    petrun data stats rows.jsonl --base ./llama
    """
    from petrun.commands.data.stats import run

    run(settings)


def head(settings: HeadSettings) -> None:
    """Show or write the first rows.

    petrun data head rows.parquet -n 3
    """
    from petrun.commands.data.head import run

    run(settings)


def convert(settings: ConvertRowsSettings) -> None:
    """Write rows in another form of instructions, another file format, or both.

    petrun data convert sharegpt.json --to messages --out rows.jsonl
    """
    from petrun.commands.data.convert import run

    run(settings)


def split(settings: SplitSettings) -> None:
    """Divide rows among parts, such as train and eval; rows with the same question stay together.

    petrun data split rows.jsonl --parts train=0.9,eval=500 --out parts
    """
    from petrun.commands.data.split import run

    run(settings)


def clean(settings: CleanSettings) -> None:
    """Drop rows that break a rule, duplicates and near duplicates, and what an evaluation file holds; each with its reason.

    petrun data clean raw.jsonl --against eval.jsonl --out clean.jsonl
    """
    from petrun.commands.data.clean import run

    run(settings)


def mix(settings: MixSettings) -> None:
    """Mix files by shares into one, shuffled by the seed, with tags on the rows of a file where they are given.

    petrun data mix people.jsonl:0.7 web.jsonl:0.3:tag='Answer with knowledge from the web.' --out mix.jsonl
    """
    from petrun.commands.data.mix import run

    run(settings)


def score(settings: ScoreSettings) -> None:
    """Write a score for each row: how little its question helps to predict its answer (ifd, ppl), or how alike vectors are.

    petrun data score rows.jsonl --by ifd --base ./gpt2 --out scores.jsonl
    petrun data score rows.jsonl --by similarity --encoder ./labse --out scores.jsonl
    petrun data score rows.jsonl --by reward:./reward-llama --out scores.jsonl
    petrun data score rows.jsonl --by comet:./wmt22-comet-da --predictions predictions.jsonl --out scores.jsonl
    """
    from petrun.commands.data.score import run

    run(settings)


def select(settings: SelectSettings) -> None:
    """Write the rows with the best scores, in the file's order.

    petrun data select rows.jsonl --scores scores.jsonl --top 10% --out best.jsonl
    petrun data select rows.jsonl --auto --base ./llama --encoder ./minilm --top 10% --out best.jsonl
    """
    from petrun.commands.data.select import run

    run(settings)


def shots(settings: ShotsSettings) -> None:
    """Put examples before the questions: other rows with their answers, drawn by the seed or the most similar ones.

    petrun data shots train.jsonl --shots 3 --against eval.jsonl --base ./llama --seq-len 2048 --out shots.jsonl
    """
    from petrun.commands.data.shots import run

    run(settings)


def backtranslate(settings: BacktranslateSettings) -> None:
    """Make a question for every text, by a delta that was trained on questions and answers exchanged.

    petrun data backtranslate pages.jsonl --base ./llama --delta runs/backward --out asked.jsonl
    """
    from petrun.commands.data.backtranslate import run

    run(settings)


def rate(settings: RateSettings) -> None:
    """Rate each row from 1 to 5 by a model: by its probabilities of the digits, or by the number that it writes.

    petrun data rate asked.jsonl --base ./llama --delta runs/chat --out ratings.jsonl
    """
    from petrun.commands.data.rate import run

    run(settings)


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        name="clean",
        settings=CleanSettings,
        run=clean,
        options=(
            "files",
            "out",
            *("bitext", "source", "target", "encoding", "languages", "without", "near", "key", "against"),
            *("min_characters", "max_characters", "max_ratio"),
        ),
    ),
    Command(
        name="stats",
        settings=StatsSettings,
        run=stats,
        options=("files", "base", "source", "target", "encoding", "as_json", "html"),
    ),
    Command(name="head", settings=HeadSettings, run=head, options=("files", "count", "out", "encoding", "on_bad_row")),
    Command(
        name="convert",
        settings=ConvertRowsSettings,
        run=convert,
        options=("files", "to", "swap", "source", "target", "out", "encoding", "on_bad_row"),
    ),
    Command(
        name="split",
        settings=SplitSettings,
        run=split,
        options=("files", "parts", "out", "source", "target", "encoding", "seed", "on_bad_row"),
    ),
    Command(
        name="mix", settings=MixSettings, run=mix, options=("files", "out", "rows", "tag_as", "seed", "on_bad_row")
    ),
    Command(
        name="score",
        settings=ScoreSettings,
        run=score,
        options=(
            "files",
            "by",
            "out",
            *("model.base", "delta", "model.base_strategy", "model.family", "alpha", "direct"),
            *("encoder", "against", "margin", "source", "target", "predictions", "comet_python"),
            *("data.template", "data.on_bad_row", SEQ_LEN, "eval.batch_size", "device", "compile_cache", "sets"),
        ),
    ),
    Command(
        name="select",
        settings=SelectSettings,
        run=select,
        options=(
            "files",
            "scores",
            "out",
            *("top", "lowest", "least", "most", "diverse", "encoder", "source", "target", "seed"),
            *("auto", "model.base", "by", "brief", "recipe"),
            *("device", "compile_cache", "sets"),
        ),
    ),
    Command(
        name="shots",
        settings=ShotsSettings,
        run=shots,
        options=(
            "files",
            "out",
            *("shots", "pool", "by", "against", "encoder", "base", "seq_len", "seed"),
            *("on_bad_row", "device", "compile_cache", "sets"),
        ),
    ),
    Command(
        name="backtranslate",
        settings=BacktranslateSettings,
        run=backtranslate,
        options=(
            "files",
            "out",
            *("base", "delta", "max_new_tokens", "temperature", "top_p", "batch_size", "seed"),
            *("on_bad_row", "device", "no_compile_cache"),
        ),
    ),
    Command(
        name="rate",
        settings=RateSettings,
        run=rate,
        options=(
            "files",
            "out",
            *("base", "delta", "by", "prompt", "samples", "max_new_tokens", "temperature", "top_p", "seed"),
            *("source", "target", "batch_size", "device", "no_compile_cache"),
        ),
    ),
)
for command in COMMANDS:
    command.add_to(app)
