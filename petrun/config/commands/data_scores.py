"""`petrun data score`, `rate` and `select`: a number for each row, and the rows with the best."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.choices import run_choices
from petrun.config.commands.data_options import (
    encoder_option,
    files_argument,
    rows_out,
    seed_option,
    source_option,
    target_option,
)
from petrun.config.options import DATA, MODEL, RUN, RunKeys, like, option

DIFFICULT = ["ifd", "ppl"]
SCORES = [*DIFFICULT, "similarity"]


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(RunKeys):
    """The rows that are scored, and how."""

    files: tuple[str, ...] = files_argument()
    by: str = option(
        "--by",
        "ifd: loss of the answer with its question over that without; ppl: the same as a ratio of perplexities; similarity: by the "
        "vectors of --encoder; reward:MODEL: by the head of a reward model, a folder that classifies, with one output; "
        "comet:MODEL: of translations, by a local model of COMET.",
        DATA,
        default="ifd",
        shows_default=True,
        choices=lambda: [*SCORES, "reward:", "comet:"],
    )
    out: str | None = option("--out", "File of scores to write, JSON lines.", RUN)
    delta: str | None = option("--delta", "Delta of the base that scores.", MODEL, choices=run_choices)
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
    encoder: str | None = encoder_option()
    against: tuple[str, ...] = option(
        "--against",
        "Files whose questions the rows should be like: similarity is the highest cosine. Default: the two sides of each row.",
        DATA,
        default=(),
        separated=True,
    )
    margin: bool = option("--margin", "Of the sides of a row: margin score instead of cosine.", DATA, default=False)
    source: str | None = source_option()
    target: str | None = target_option()

    predictions: str | None = option(
        "--predictions",
        "Of comet: what petrun predict wrote of these rows. They are the translations, and the rows' answers the references. Default: the "
        "rows' answers are the translations, without references.",
        DATA,
    )
    comet_python: str | None = option(
        "--comet-python", "Of comet: a Python with the package unbabel-comet. Default: petrun's own.", RUN
    )


@dataclass(frozen=True, kw_only=True)
class SelectSettings(RunKeys):
    """The rows that are chosen."""

    files: tuple[str, ...] = files_argument()
    out: str | None = rows_out()
    auto: bool = option(
        "--auto",
        "All steps in one: a short training on questions that differ, scores by its delta, the best. Needs --base and --encoder.",
        DATA,
        default=False,
    )
    by: str = option(
        "--by",
        "With --auto: ifd or ppl, as petrun data score has them.",
        DATA,
        default="ifd",
        shows_default=True,
        choices=lambda: DIFFICULT,
    )
    brief: int | None = option(
        "--brief", "With --auto: rows of the short training. Default: a tenth of all, up to 1,000.", DATA, low=1
    )
    recipe: str | None = option(
        "--recipe",
        "With --auto: recipe of the short training. Default: LoRA for an epoch. --set changes it, too.",
        DATA,
    )
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
    encoder: str | None = encoder_option()
    source: str | None = source_option()
    target: str | None = target_option()
    seed: int = seed_option()


RATINGS = ["expected", "generated"]


@dataclass(frozen=True, kw_only=True)
class RateSettings:
    """The rows that are rated, and by what."""

    files: tuple[str, ...] = files_argument()
    out: str | None = option("--out", "File of scores to write, JSON lines.", RUN)
    base: str | None = like("model.base")
    delta: str | None = option("--delta", "Delta of the base that rates.", MODEL, choices=run_choices)
    by: str = option(
        "--by",
        "expected: the expected value over the probabilities of the digits 1 to 5; generated: the number that the model writes.",
        DATA,
        default="expected",
        shows_default=True,
        choices=lambda: RATINGS,
    )
    prompt: str | None = option(
        "--prompt",
        "File of a text with {question} and {answer} that asks for the rating. Default: five levels in English.",
        DATA,
    )
    samples: int = option(
        "--samples",
        "Of generated: answers for each row, whose mean is the rating.",
        DATA,
        default=1,
        low=1,
        shows_default=True,
    )
    max_new_tokens: int = option(
        "--max-new-tokens", "Of generated: longest answer in tokens.", DATA, default=256, low=1, shows_default=True
    )
    temperature: float = option(
        "--temperature",
        "Of generated: draw from softmax(logits / temperature). Default 0, which takes the likeliest.",
        DATA,
        default=0.0,
    )
    top_p: float = option(
        "--top-p", "Draw from the likeliest tokens that reach this probability. Default 1.", DATA, default=1.0
    )
    batch_size: int = option(
        "--batch-size", "Rows that are computed together.", RUN, default=8, low=1, shows_default=True
    )
    source: str | None = source_option()
    target: str | None = target_option()
    seed: int = seed_option()
    device: str | None = like("device")
    no_compile_cache: bool = like("compile_cache", default=False)
