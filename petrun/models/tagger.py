"""An encoder's family with a second form, which gives every token of a row a class.

Layout and names of transformers' ForTokenClassification classes: no pooler, and a head `classifier` of one layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from petrun.data.tasks import TOKENS
from petrun.graph.sites import Sites
from petrun.models.base import Family, StoredName
from petrun.models.bert_net import encoder_names, encoder_sites

_HEAD = "classifier"


def with_tags(family: Family, hf_classes: Mapping[str, str], root: str, ignored: tuple[str, ...]) -> Family:
    """Return the family of an encoder with the form of it that classifies tokens.

    `hf_classes`: as Family's, of that form; `root`: the encoder's name in the files; `ignored`: tensors of the first form's head.
    """

    def names(config: Any) -> dict[str, StoredName]:
        return encoder_names(config, root, {_HEAD: _HEAD})

    def sites(config: Any) -> Sites:
        found = encoder_sites(config, names(config), (f"{_HEAD}.*",))
        # Of states (B, T, H), not of one a row.
        return replace(found, splits={**found.splits, "dropout": "tokens"})

    tagger = replace(
        family,
        hf_classes=hf_classes,
        tasks=(TOKENS,),
        build=partial(family.build, tags=True),
        names=names,
        sites=sites,
        ignored=(*(pattern for pattern in family.ignored if not pattern.startswith(f"{_HEAD}.")), *ignored),
    )
    return replace(family, others=(*family.others, tagger))
