"""A decoder's family with a second form, which classifies rows by their last token.

Layout and names of transformers' ForSequenceClassification classes of decoders: the head is called score and has no bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.graph.sites import Sites
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.typing import JsonObject

_HEAD = "score"
_DEFAULT_PADS = {"opt": 1, "glm": 151329, "glm4": 151329, "phi3": 32000, "gemma": 0, "gemma2": 0, "gemma3_text": 0}
"""model_type -> pad_token_id of transformers' config where the file does not state it; None for those that are not here."""


def with_classifier(family: Family, hf_classes: Mapping[str, str]) -> Family:
    """Return the family of a decoder with the form of it that classifies rows. `hf_classes`: as Family's, of that form."""

    def parse(raw: JsonObject) -> FamilyConfig:
        pad = raw.get("pad_token_id")
        return replace(family.parse(raw), pad_token=-1 if pad is None else pad)

    def names(config: Any) -> dict[str, StoredName]:
        table = {ours: replace(stored, also=_own(stored.also)) for ours, stored in family.names(config).items()}
        table.pop("head.weight", None)
        return {**table, f"{_HEAD}.weight": StoredName(name=f"{_HEAD}.weight", optional=True)}

    def sites(config: Any) -> Sites:
        found = family.sites(config)
        return replace(
            found,
            head=_HEAD,
            trained_heads=(f"{_HEAD}.*",),
            splits={**found.splits, "last": "tokens", _HEAD: "whole"},
            hf_paths={ours: theirs for ours, theirs in found.hf_paths.items() if ours != "head"} | {_HEAD: _HEAD},
        )

    classifier = replace(
        family,
        hf_classes=hf_classes,
        tasks=("classify",),
        complete=_with_pad_token,
        parse=parse,
        names=names,
        sites=sites,
        # The head of the decoder that continues texts.
        ignored=(*family.ignored, "lm_head.weight"),
    )
    return replace(family, others=(*family.others, classifier))


def _own(also: Mapping[str, str]) -> dict[str, str]:
    """Return the further names of a tensor but that of the head that is not there."""
    return {name: other for name, other in also.items() if other != "head.weight"}


def _with_pad_token(raw: JsonObject, folder: Path) -> JsonObject:
    """Return config.json with the id by which transformers finds a row's last token; without one it takes no batch of several rows.

    Where neither the file nor transformers' default names a token of the vocabulary, it is the token with which the base's tokenizer pads.
    """
    stated = raw["pad_token_id"] if "pad_token_id" in raw else _DEFAULT_PADS.get(str(raw.get("model_type")))
    if not _is_token(stated, raw):
        tokenizer = load_tokenizer(folder)
        stated = None if tokenizer is None else tokenizer.pad_id
    return {**raw, "pad_token_id": stated}


def _is_token(stated: object, raw: JsonObject) -> bool:
    vocabulary = raw.get("vocab_size")
    return isinstance(stated, int) and stated >= 0 and (not isinstance(vocabulary, int) or stated < vocabulary)
