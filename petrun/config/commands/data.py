"""`petrun data`: files of rows in, files of rows out."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.choices import run_choices
from petrun.config.commands.data_options import (
    encoder_option,
    encoding_option,
    files_argument,
    on_bad_row_option,
    rows_out,
    seed_option,
    source_option,
    target_option,
)
from petrun.config.options import DATA, MODEL, RUN, RunKeys, argument, like, option


def form_choices() -> list[str]:
    """Forms of instructions."""
    return ["messages", "sharegpt", "alpaca", "prompt"]


@dataclass(frozen=True, kw_only=True)
class StatsSettings:
    """The rows that are counted, and where the figures go."""

    files: tuple[str, ...] = files_argument()
    base: str | None = like("model.base", "Folder of a tokenizer: lengths in its tokens too.")
    source: str | None = source_option()
    target: str | None = target_option()
    encoding: str | None = encoding_option()
    as_json: bool = option("--json", "Print one JSON object.", default=False)
    html: str | None = option("--html", "Also write a page with all figures and histograms.", RUN)


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The first rows."""

    files: tuple[str, ...] = files_argument()
    count: int = option("-n", "Rows.", default=10, low=1, shows_default=True)
    out: str | None = option("--out", "Write them to this file instead of the terminal.", RUN)
    encoding: str | None = encoding_option()
    on_bad_row: str | None = on_bad_row_option()


@dataclass(frozen=True, kw_only=True)
class ConvertRowsSettings:
    """The rows that are written in another form or format."""

    files: tuple[str, ...] = files_argument()
    out: str | None = rows_out()
    to: str | None = option(
        "--to",
        "messages, sharegpt, alpaca or prompt. Default: the columns stay, and only the file's format changes.",
        DATA,
        choices=form_choices,
    )
    swap: bool = option(
        "--swap",
        "Exchange question and answer, as prompt and completion: what a model that asks is trained on.",
        DATA,
        default=False,
    )
    source: str | None = option(
        "--source", "With --to or --swap: column of the question. Default: by the names that training knows.", DATA
    )
    target: str | None = option("--target", "Column of the answer.", DATA)
    encoding: str | None = encoding_option()
    on_bad_row: str | None = on_bad_row_option()


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """The parts that rows are divided among."""

    files: tuple[str, ...] = files_argument()
    out: str | None = option("--out", "Folder of the parts' files. Must not exist, or be empty.", RUN)
    parts: str = option(
        "--parts",
        "NAME=SHARE or NAME=ROWS of every part, with commas between them.",
        DATA,
        default="train=0.9,eval=0.1",
        shows_default=True,
    )
    source: str | None = source_option()
    target: str | None = target_option()
    encoding: str | None = encoding_option()
    seed: int = seed_option()
    on_bad_row: str | None = on_bad_row_option()


@dataclass(frozen=True, kw_only=True)
class MixSettings:
    """The files that are mixed, with weights and tags."""

    files: tuple[str, ...] = argument(
        "Files with their weights and tags: a.jsonl:0.7 b.jsonl:0.3:tag='From the web.'",
        metavar="FILE[:WEIGHT][:tag=TEXT]...",
    )
    out: str | None = rows_out()
    rows: int | None = option(
        "--rows", "Rows of the result. Default: as many as leave every row used at most once.", DATA, low=1
    )
    tag_as: str = option(
        "--tag-as",
        "A tag is a sentence at the end of the system text (system), or stands before the question (token).",
        DATA,
        default="system",
        shows_default=True,
        choices=lambda: ["system", "token"],
    )
    seed: int = seed_option()
    on_bad_row: str | None = on_bad_row_option()


def rule_choices() -> list[str]:
    """Names of the rules, in the order of petrun/curation/rules.py, which stands above this package."""
    return "empty equal short long mojibake control html repeats ratio letters numbers urls script language".split()


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """The rows that are cleaned, and by what."""

    files: tuple[str, ...] = files_argument()
    out: str | None = rows_out()
    bitext: bool = option(
        "--bitext",
        "The rows are translations, with rules for two sides. Default: instructions.",
        DATA,
        default=False,
    )
    source: str | None = source_option()
    target: str | None = target_option()
    encoding: str | None = encoding_option()
    languages: tuple[str, ...] = option(
        "--langs",
        "Languages (ISO 639-1): of bitext the source's and the target's, en,zh; of instructions all that an answer may be in.",
        DATA,
        default=(),
        separated=True,
    )
    without: tuple[str, ...] = option(
        "--without",
        "Rules that are left out, with commas between them.",
        DATA,
        default=(),
        separated=True,
        choices=rule_choices,
    )
    near: float = option(
        "--near",
        "Least similarity (Jaccard, of character 5-grams) of near duplicates; 0 drops exact duplicates alone.",
        DATA,
        default=0.8,
        shows_default=True,
    )
    key: str = option(
        "--key",
        "What makes rows duplicates: row, question or answer.",
        DATA,
        default="row",
        shows_default=True,
        choices=lambda: ["row", "question", "answer"],
    )
    against: tuple[str, ...] = option(
        "--against",
        "Evaluation files: rows with a question of theirs, or one near it, are dropped.",
        DATA,
        default=(),
        separated=True,
    )
    min_characters: int = option(
        "--min-chars", "Fewest characters of an answer, or of each side.", DATA, default=1, shows_default=True, low=0
    )
    max_characters: int = option(
        "--max-chars", "Most characters of a row.", DATA, default=20_000, shows_default=True, low=1
    )
    max_ratio: float = option(
        "--max-ratio",
        "Of bitext: largest ratio of the sides' lengths, in words or characters.",
        DATA,
        default=3.0,
        shows_default=True,
    )


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(RunKeys):
    """The texts that are encoded."""

    files: tuple[str, ...] = files_argument()
    encoder: str | None = encoder_option()
    out: str | None = option(
        "--out", "File to write: .npy, or .safetensors with the tensor `vectors`; a row a row.", RUN
    )
    part: str = option(
        "--part",
        "What is encoded: row, question or answer.",
        DATA,
        default="row",
        shows_default=True,
        choices=lambda: ["row", "question", "answer"],
    )
    batch_size: int = option(
        "--batch-size", "Texts that are encoded at once.", RUN, default=32, low=1, shows_default=True
    )
    source: str | None = source_option()
    target: str | None = target_option()
    on_bad_row: str | None = on_bad_row_option()


@dataclass(frozen=True, kw_only=True)
class ShotsSettings(RunKeys):
    """The rows that get examples, and where those come from."""

    files: tuple[str, ...] = files_argument()
    out: str | None = rows_out()
    shots: int = option("--shots", "Examples before each question.", DATA, default=1, low=0, shows_default=True)
    pool: tuple[str, ...] = option(
        "--pool", "Files that examples come from. Default: the rows themselves.", DATA, default=(), separated=True
    )
    by: str = option(
        "--by",
        "random: drawn by the seed; similarity: those whose questions are nearest, the nearest last (needs --encoder).",
        DATA,
        default="random",
        shows_default=True,
        choices=lambda: ["random", "similarity"],
    )
    against: tuple[str, ...] = option(
        "--against", "Evaluation files, whose questions are no examples.", DATA, default=(), separated=True
    )
    encoder: str | None = encoder_option()
    base: str | None = like("model.base", "Folder of a tokenizer: print how long rows become.")
    seq_len: int | None = option("--seq-len", "With --base: also count rows with more tokens than this.", DATA, low=1)
    seed: int = seed_option()
    on_bad_row: str | None = on_bad_row_option()


@dataclass(frozen=True, kw_only=True)
class BacktranslateSettings:
    """The texts that questions are made for, and by what."""

    files: tuple[str, ...] = files_argument()
    out: str | None = rows_out()
    base: str | None = like("model.base")
    delta: str | None = option(
        "--delta", "Delta that was trained to ask: on rows of petrun data convert --swap.", MODEL, choices=run_choices
    )
    max_new_tokens: int = option(
        "--max-new-tokens", "Longest question in tokens.", DATA, default=128, low=1, shows_default=True
    )
    temperature: float = option(
        "--temperature", "Draw from softmax(logits / temperature); 0 takes the likeliest.", DATA, default=0.7
    )
    top_p: float = option("--top-p", "Draw from the likeliest tokens that reach this probability.", DATA, default=0.9)
    batch_size: int = option(
        "--batch-size", "Texts that are computed together.", RUN, default=8, low=1, shows_default=True
    )
    seed: int = seed_option()
    on_bad_row: str | None = on_bad_row_option()
    device: str | None = like("device")
    no_compile_cache: bool = like("compile_cache", default=False)
