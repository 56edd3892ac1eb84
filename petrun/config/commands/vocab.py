"""`petrun vocab`: tokenizers that know more text, and bases with rows for it."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.options import DATA, MODEL, RUN, argument, like, option


@dataclass(frozen=True, kw_only=True)
class TrainVocabSettings:
    """The text that a tokenizer is trained on."""

    files: tuple[str, ...] = argument("Files of rows, folders of them, or plain text.", metavar="FILE...")
    base: str | None = like("model.base", "Folder whose tokenizer says the kind, and how text is normalised and split.")
    size: int = option("--size", "Pieces.", DATA, default=10_000, low=1, shows_default=True)
    out: str | None = option("--out", "Folder of the tokenizer. Must not exist, or be empty.", RUN)


@dataclass(frozen=True, kw_only=True)
class MergeVocabSettings:
    """The base that gets new pieces, and where they come from."""

    base: str | None = like("model.base", "Folder of the base.")
    tokenizer: str | None = option("--tokenizer", "Folder or tokenizer.json whose pieces are appended.", MODEL)
    out: str | None = option("--out", "Folder of the new base. Must not exist, or be empty.", RUN)
    init: str = option(
        "--init",
        "Rows of new pieces: mean of the old tokens' rows; noise on it; or copy of the first token's row.",
        MODEL,
        default="mean",
        shows_default=True,
        choices=lambda: ["mean", "noise", "copy"],
    )
    held_out: tuple[str, ...] = option(
        "--held-out",
        "Files on which tokens per character are counted, before and after.",
        DATA,
        default=(),
        separated=True,
    )
    seed: int = option("--seed", "Of the noise. Default 0.", RUN, default=0)
