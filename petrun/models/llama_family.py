"""The record of a family whose net is Llama's, with what such families have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from petrun.data.tasks import DECODER_TASKS
from petrun.graph.sites import Sites
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.classifier import with_classifier
from petrun.models.llama_names import names as llama_names
from petrun.models.llama_names import sites as llama_sites
from petrun.models.llama_net import build
from petrun.typing import JsonObject


def llama_family(
    *,
    name: str,
    causal: Mapping[str, str],
    classes: Mapping[str, str],
    parse: Callable[[JsonObject], FamilyConfig],
    sites: Callable[[Any], Sites] = llama_sites,
    names: Callable[[Any], dict[str, StoredName]] = llama_names,
) -> Family:
    """Return the family. `causal`, `classes`: model_type -> transformers' class that continues texts, and that classifies rows."""
    family = Family(
        name=name,
        hf_classes=causal,
        tasks=DECODER_TASKS,
        inputs=("input_ids", "segment_ids", "position_ids"),
        parse=parse,
        build=build,
        sites=sites,
        names=names,
        prefixes=("", "model."),
        # Buffers that old files store.
        ignored=("model.layers.*.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
    )
    return with_classifier(family, classes)
