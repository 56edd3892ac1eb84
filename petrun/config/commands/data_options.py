"""Options that several commands of `petrun data` have."""

from __future__ import annotations

from petrun.config.options import DATA, MODEL, RUN, SettingField, argument, like, option


def files_argument() -> SettingField:
    return argument("Files of rows, folders of them, or some rows of one (rows.jsonl#500).", metavar="FILE...")


def rows_out() -> SettingField:
    return option(
        "--out", "File to write; its suffix says the format: .jsonl, .json, .csv, .tsv, .parquet, .mindrecord.", RUN
    )


def on_bad_row_option() -> SettingField:
    return like(
        "data.on_bad_row", "Lines that cannot be read: stop and name them, or skip: leave them out. Default stop."
    )


def source_option() -> SettingField:
    return option(
        "--source",
        "Column of the question, or of a translation's source; `translation.en` is a key of an object. Default: by the names that "
        "training knows.",
        DATA,
    )


def target_option() -> SettingField:
    return option("--target", "Column of the answer, or of a translation's target.", DATA)


def encoding_option() -> SettingField:
    return option(
        "--encoding",
        "Encoding of the files' text, such as gb18030. Default: UTF-8, by the byte order mark, or detected.",
        DATA,
    )


def seed_option() -> SettingField:
    return option("--seed", "Of what is drawn. Default 0.", RUN, default=0)


def encoder_option() -> SettingField:
    return option("--encoder", "Folder of sentence-transformers (BERT or RoBERTa): LaBSE, MiniLM, BGE, E5 ...", MODEL)
