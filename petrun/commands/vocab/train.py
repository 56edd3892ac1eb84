"""`petrun vocab train`: a tokenizer of the base's kind, trained on text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, trainers

from petrun import console
from petrun.config.commands.vocab import TrainVocabSettings
from petrun.curation.parts import PartReader
from petrun.curation.reading import RowFiles
from petrun.curation.vocabulary import read_tokenizer_json
from petrun.errors import ConfigError
from petrun.tensors.atomic import atomic_folder, refuse_occupied


def run(given: TrainVocabSettings) -> None:
    """Train, and write tokenizer.json. Raises ConfigError, DataError, OutputError."""
    if given.base is None:
        raise ConfigError("--base is missing: its tokenizer says what kind is trained", hint="Example: --base ./llama")
    if given.out is None:
        raise ConfigError("--out is missing: the folder of the tokenizer", hint="Example: --out zh")
    out, files = Path(given.out).expanduser(), RowFiles(given.files)
    refuse_occupied(out)
    content = read_tokenizer_json(given.base)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    kind = content["model"]["type"]
    fresh, trainer = _untrained(content["model"], given.size)
    trained = Tokenizer(fresh)
    trained.normalizer, trained.pre_tokenizer, trained.decoder = (
        tokenizer.normalizer,
        tokenizer.pre_tokenizer,
        tokenizer.decoder,
    )
    reader = PartReader()
    trained.train_from_iterator(_texts(files, reader), trainer)
    with atomic_folder(out) as folder:
        (folder / "tokenizer.json").write_text(trained.to_str(pretty=True), encoding="utf-8")
    console.tell(f"wrote {kind} with {trained.get_vocab_size():,} pieces to {out}")


def _untrained(model: dict[str, Any], size: int) -> tuple[Any, Any]:
    """Return (a model of the kind of the base's without pieces, what trains it)."""
    kind = model["type"]
    if kind == "BPE":
        how = {key: model.get(key) for key in ("unk_token", "fuse_unk", "byte_fallback") if model.get(key) is not None}
        return models.BPE(**how), trainers.BpeTrainer(vocab_size=size, show_progress=False)
    if kind == "WordPiece":
        unknown = model.get("unk_token", "[UNK]")
        return models.WordPiece(unk_token=unknown), trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=[unknown], show_progress=False
        )
    if kind == "Unigram":
        return models.Unigram(), trainers.UnigramTrainer(
            vocab_size=size, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        )
    raise ConfigError(f"--base: its tokenizer is {kind}; BPE, WordPiece and Unigram can be trained")


def _texts(files: RowFiles, reader: PartReader) -> Iterator[str]:
    for row in files:
        yield reader(row).text
