"""`petrun data`: files of rows in, files of rows out."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.options import DATA, MODEL, RUN, RunKeys, SettingField, argument, like, option


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


def _encoding() -> SettingField:
    return option(
        "--encoding",
        "Encoding of the files' text, such as gb18030. Default: UTF-8, by the byte order mark, or detected.",
        DATA,
    )


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
    encoding: str | None = _encoding()
    as_json: bool = option("--json", "Print one JSON object.", default=False)
    html: str | None = option("--html", "Also write a page with all figures and histograms.", RUN)


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The first rows."""

    files: tuple[str, ...] = _files()
    count: int = option("-n", "Rows.", default=10, low=1, shows_default=True)
    out: str | None = option("--out", "Write them to this file instead of the terminal.", RUN)
    encoding: str | None = _encoding()
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
    encoding: str | None = _encoding()
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
    encoding: str | None = _encoding()
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
    """Names of the rules, in the order of petrun/curation/rules.py, which stands above this package."""
    return "empty equal short long mojibake control html repeats ratio letters numbers urls script language".split()


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
    encoding: str | None = _encoding()
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


SCORES = ["ifd", "ppl", "similarity"]


def _encoder() -> SettingField:
    return option("--encoder", "Folder of sentence-transformers (BERT or RoBERTa): LaBSE, MiniLM, BGE, E5 ...", MODEL)


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(RunKeys):
    """The rows that are scored, and how."""

    files: tuple[str, ...] = _files()
    by: str = option(
        "--by",
        "ifd: loss of the answer with its question over that without; ppl: the same as a ratio of perplexities; similarity: by the "
        "vectors of --encoder.",
        DATA,
        default="ifd",
        shows_default=True,
        choices=lambda: SCORES,
    )
    out: str | None = option("--out", "File of scores to write, JSON lines.", RUN)
    delta: str | None = option("--delta", "Delta of the base that scores.", MODEL)
    alpha: float | None = option(
        "--alpha", "LoRA alpha of a delta whose file does not say it (MindPet checkpoints).", MODEL
    )
    direct: str = option(
        "--direct",
        "Text before an answer that stands alone, such as '### Response:'. Default: the tokenizer's BOS; where it has none, an answer's "
        "first token is scored in neither loss.",
        DATA,
        default="",
    )
    encoder: str | None = _encoder()
    against: tuple[str, ...] = option(
        "--against",
        "Files whose questions the rows should be like: similarity is the highest cosine. Default: the two sides of each row.",
        DATA,
        default=(),
        separated=True,
    )
    margin: bool = option("--margin", "Of the sides of a row: margin score instead of cosine.", DATA, default=False)
    source: str | None = _source()
    target: str | None = _target()


@dataclass(frozen=True, kw_only=True)
class SelectSettings(RunKeys):
    """The rows that are chosen."""

    files: tuple[str, ...] = _files()
    out: str | None = _out()
    scores: str | None = option("--scores", "File of scores of these files, as petrun data score writes it.", DATA)
    top: str = option(
        "--top", "Share of the rows with a score, or a number of rows.", DATA, default="10%", shows_default=True
    )
    lowest: bool = option("--lowest", "The lowest scores instead of the highest: a control.", DATA, default=False)
    least: float | None = option("--min-score", "Rows below it are dropped.", DATA)
    most: float | None = option(
        "--max-score", "Rows above it are dropped. Default: 1 for ifd and ppl, else none.", DATA
    )
    diverse: int | None = option(
        "--diverse", "Groups of similar questions, which give their best rows in turn; needs --encoder.", DATA, low=2
    )
    encoder: str | None = _encoder()
    source: str | None = _source()
    target: str | None = _target()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(RunKeys):
    """The texts that are encoded."""

    files: tuple[str, ...] = _files()
    encoder: str | None = _encoder()
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
    source: str | None = _source()
    target: str | None = _target()
    on_bad_row: str | None = _bad()


@dataclass(frozen=True, kw_only=True)
class ShotsSettings(RunKeys):
    """The rows that get examples, and where those come from."""

    files: tuple[str, ...] = _files()
    out: str | None = _out()
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
    encoder: str | None = _encoder()
    base: str | None = like("model.base", "Folder of a tokenizer: print how long rows become.")
    seq_len: int | None = option("--seq-len", "With --base: also count rows with more tokens than this.", DATA, low=1)
    seed: int = _seed()
    on_bad_row: str | None = _bad()


@dataclass(frozen=True, kw_only=True)
class BacktranslateSettings:
    """The texts that questions are made for, and by what."""

    files: tuple[str, ...] = _files()
    out: str | None = _out()
    base: str | None = like("model.base")
    delta: str | None = option(
        "--delta", "Delta that was trained to ask: on rows of petrun data convert --swap.", MODEL
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
    seed: int = _seed()
    on_bad_row: str | None = _bad()
    device: str | None = like("device")
    no_compile_cache: bool = like("compile_cache", default=False)
