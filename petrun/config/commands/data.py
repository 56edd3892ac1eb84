"""`petrun data`: files of rows in, files of rows out."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.options import DATA, RUN, SettingField, argument, like, option


def _files() -> SettingField:
    return argument("Files of rows, folders of them, or some rows of one (rows.jsonl#500).", metavar="FILE...")


def _out() -> SettingField:
    return option(
        "--out", "File to write; its suffix says the format: .jsonl, .json, .csv, .tsv, .parquet, .mindrecord.", RUN
    )


def _bad() -> SettingField:
    return like(
        "data.on_bad_row", "Lines that cannot be read: stop and name them, or skip: leave them out. Default stop."
    )


def _source() -> SettingField:
    return option(
        "--source",
        "Column of the question, or of a translation's source; `translation.en` is a key of an object. Default: by the names that "
        "training knows.",
        DATA,
    )


def _target() -> SettingField:
    return option("--target", "Column of the answer, or of a translation's target.", DATA)


def _seed() -> SettingField:
    return option("--seed", "Of what is drawn. Default 0.", RUN, default=0)


def form_choices() -> list[str]:
    """Forms of instructions."""
    return ["messages", "sharegpt", "alpaca", "prompt"]


@dataclass(frozen=True, kw_only=True)
class StatsSettings:
    """The rows that are counted, and where the figures go."""

    files: tuple[str, ...] = _files()
    base: str | None = like("model.base", "Folder of a tokenizer: lengths in its tokens too.")
    source: str | None = _source()
    target: str | None = _target()
    as_json: bool = option("--json", "Print one JSON object.", default=False)
    html: str | None = option("--html", "Also write a page with all figures and histograms.", RUN)


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The first rows."""

    files: tuple[str, ...] = _files()
    count: int = option("-n", "Rows.", default=10, low=1, shows_default=True)
    out: str | None = option("--out", "Write them to this file instead of the terminal.", RUN)
    on_bad_row: str | None = _bad()


@dataclass(frozen=True, kw_only=True)
class ConvertRowsSettings:
    """The rows that are written in another form or format."""

    files: tuple[str, ...] = _files()
    out: str | None = _out()
    to: str | None = option(
        "--to",
        "messages, sharegpt, alpaca or prompt. Default: the columns stay, and only the file's format changes.",
        DATA,
        choices=form_choices,
    )
    on_bad_row: str | None = _bad()


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """The parts that rows are divided among."""

    files: tuple[str, ...] = _files()
    out: str | None = option("--out", "Folder of the parts' files. Must not exist, or be empty.", RUN)
    parts: str = option(
        "--parts",
        "NAME=SHARE or NAME=ROWS of every part, with commas between them.",
        DATA,
        default="train=0.9,eval=0.1",
        shows_default=True,
    )
    source: str | None = _source()
    target: str | None = _target()
    seed: int = _seed()
    on_bad_row: str | None = _bad()


@dataclass(frozen=True, kw_only=True)
class MixSettings:
    """The files that are mixed, with weights and tags."""

    files: tuple[str, ...] = argument(
        "Files with their weights and tags: a.jsonl:0.7 b.jsonl:0.3:tag='From the web.'",
        metavar="FILE[:WEIGHT][:tag=TEXT]...",
    )
    out: str | None = _out()
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
    seed: int = _seed()
    on_bad_row: str | None = _bad()


def rule_choices() -> list[str]:
    """Names of the rules."""
    from petrun.curation.rules import RULES

    return [rule.name for rule in RULES]


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """The rows that are cleaned, and by what."""

    files: tuple[str, ...] = _files()
    out: str | None = _out()
    bitext: bool = option(
        "--bitext",
        "The rows are translations, with rules for two sides. Default: instructions.",
        DATA,
        default=False,
    )
    source: str | None = _source()
    target: str | None = _target()
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
