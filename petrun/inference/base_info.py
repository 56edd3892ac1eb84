"""Read what a base's config.json says, before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from petrun.config.schema import RunConfig
from petrun.data.tasks import IMAGE, TOKENS
from petrun.errors import ConfigError
from petrun.inference.assembly import base_path
from petrun.models.factory import is_factory, read_family
from petrun.models.families import tasks_of
from petrun.models.folder import label_names
from petrun.models.pipeline import TOKENIZER, read_pipeline
from petrun.tensors.sharded.ranks import root_of
from petrun.typing import JsonObject


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """Facts of a base from its config.json."""

    hf_config: JsonObject
    """config.json; {} for a model of the user's own."""
    tasks: tuple[str, ...]
    """Tasks that the base can be trained for."""
    vocabulary: int | None
    """Rows of the token embedding, under whatever name config.json states them; None for a model of the user's own."""
    longest: int | None
    """Positions that the model has for a row, without those of virtual tokens; None where config.json does not state them."""
    virtual_tokens: int
    """Positions that the delta's virtual tokens take."""
    labels: tuple[str, ...]
    """Names of the classes of the base's own head; () for a base without one."""
    num_labels: int | None
    """Classes of that head (1: it predicts a number); None for a base without one."""
    folder: Path | None
    """Folder of the tokenizer."""
    decoder_start: int | None = None
    """Of an encoder-decoder: the token with which every target begins."""


def read_base_info(config: RunConfig, tokens: int = 0) -> BaseInfo:
    """Read config.json, for a delta with so many virtual tokens. Raises ConfigError where they leave no room."""
    base = base_path(config.model)
    if is_factory(config.model.family):
        return BaseInfo(
            hf_config={},
            tasks=("classify",),
            vocabulary=None,
            longest=None,
            virtual_tokens=tokens,
            labels=(),
            num_labels=None,
            folder=None,
        )
    path = Path(config.model.config) if config.model.config else None
    raw, family, parsed = read_family(base, config.model.family, path, IMAGE if config.data.task == IMAGE else None)
    longest = parsed.positions
    if longest is not None:
        if longest - tokens < 2:
            raise ConfigError(
                f"{tokens} virtual tokens leave no room in the model's {longest} positions",
                hint="Give fewer: --tokens 20.",
            )
        longest -= tokens
    beside = path.parent if path else _folder_of(base)
    if config.data.task == IMAGE and base is not None:
        beside, longest = base / TOKENIZER, read_pipeline(base).text.positions
    labels, count = ((), None) if config.model.fresh_head else own_head(raw, TOKENS in family.tasks)
    return BaseInfo(
        hf_config=raw,
        tasks=tasks_of(family),
        vocabulary=parsed.vocab or None,
        longest=longest,
        virtual_tokens=tokens,
        labels=labels,
        num_labels=count,
        folder=beside,
        decoder_start=parsed.decoder_start,
    )


def _folder_of(base: Path | None) -> Path | None:
    """Return the folder of a base's tokenizer: that of its file, or that of the files of its ranks."""
    if base is None:
        return None
    base = root_of(base)
    return base.parent if base.is_file() else base


def own_head(raw: JsonObject, of_tokens: bool = False) -> tuple[tuple[str, ...], int | None]:
    """Return label names and number of classes of a base with a head that classifies rows, or tokens. Names that transformers made up
    (LABEL_0) do not count."""
    table, stated = raw.get("id2label"), raw.get("num_labels")
    count = len(table) if isinstance(table, dict) and table else stated if isinstance(stated, int) else 2
    named = ("ForTokenClassification" if of_tokens else "ForSequenceClassification") in str(raw.get("architectures"))
    if not named and (of_tokens or count != 1 or raw.get("problem_type") != "regression"):
        return (), None
    if count == 1:
        # It predicts a number; the name of its one output is not a class.
        return (), 1
    names = label_names(raw, count)
    return (() if all(n == f"LABEL_{i}" for i, n in enumerate(names)) else names), count
