"""A built-in family's net, with its base in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from petrun.errors import ModelError
from petrun.graph.outline import mark_outline
from petrun.models.base import Family, LoadedModel
from petrun.models.folder import eos_ids, label_names
from petrun.models.weights import Match, absent, check, init_fresh, load, match
from petrun.tensors import TensorReader


def assemble(
    reader: TensorReader,
    family: Family,
    parsed: Any,
    raw: dict[str, Any],
    path: Path,
    num_labels: int | None,
    fresh_head: bool,
    compute_dtype: str,
    seed: int,
) -> LoadedModel:
    """Match the file's tensors, settle the head, build the net, check, load. Raises ModelError and WeightsError."""
    names = family.names(parsed)
    matched = match(reader, names, family.prefixes, family.ignored)
    head = (
        _settle_head(reader, matched, raw, num_labels, fresh_head) if "classify" in family.tasks else _Head(None, False)
    )
    net = family.build(parsed, compute_dtype=compute_dtype, dropout_seed=seed, num_labels=head.classes)
    fresh = absent(matched, names)
    check(reader, matched, names, net, fresh)
    digest = load(reader, matched, net, family.sites(parsed).trained_heads)
    init_fresh(net, fresh, seed, getattr(parsed, "init_range", 0.02))
    return _filled(family, parsed, raw, path, net, head, fresh, digest)


def outline(
    family: Family, parsed: Any, raw: dict[str, Any], path: Path, classes: int | None, compute_dtype: str, seed: int
) -> LoadedModel:
    """The net of a config.json, its parameters zeros that take no memory until they are written to. For a classifier
    `classes` counts its head's outputs; the head trains as a new one does."""
    head = _Head((classes or 2) if "classify" in family.tasks else None, False)
    net = family.build(parsed, compute_dtype=compute_dtype, dropout_seed=seed, num_labels=head.classes)
    mark_outline(net)
    return _filled(family, parsed, raw, path, net, head, (), "")


def _filled(
    family: Family,
    parsed: Any,
    raw: dict[str, Any],
    path: Path,
    net: Any,
    head: _Head,
    fresh: tuple[str, ...],
    digest: str,
) -> LoadedModel:
    sites = family.sites(parsed)
    extra = {f"{name.rpartition('.')[0]}.*" for name in fresh} - set(sites.trained_heads)
    net.set_train(False)
    pad = raw.get("pad_token_id")
    return LoadedModel(
        net=net,
        sites=replace(sites, trained_heads=(*sites.trained_heads, *sorted(extra))),
        family=family.name,
        model_type=str(raw.get("model_type") or family.name),
        inputs=family.inputs,
        tasks=family.tasks,
        hf_config=raw,
        names=family.names(parsed),
        fresh=fresh,
        base_digest=digest,
        folder=path.parent,
        max_positions=getattr(parsed, "positions", None),
        # Padding is masked out: where the stated id is none of the vocabulary, any other serves.
        pad_token_id=pad if isinstance(pad, int) and 0 <= pad < parsed.vocab else 0,
        eos_token_ids=eos_ids(raw, path.parent),
        num_labels=head.classes,
        labels=label_names(raw, head.classes) if head.own and head.classes else (),
    )


@dataclass(frozen=True)
class _Head:
    classes: int | None
    own: bool
    """The base's head is kept."""


FRESH_HEAD = "--set model.fresh_head=true puts a new head in its place."


def _settle_head(
    reader: TensorReader, matched: Match, raw: Mapping[str, Any], num_labels: int | None, fresh_head: bool
) -> _Head:
    """Decide between the base's head and a new one; a head that is not kept is taken out of the match."""
    head = {ours: s for ours, s in matched.found.items() if ours.startswith("classifier.")}
    if num_labels is not None and num_labels < 1:
        raise ModelError(f"a head needs at least one output, not {num_labels}")
    if not head or fresh_head:
        for ours in head:
            del matched.found[ours]
        if num_labels is None:
            raise ModelError(
                f"{reader.path}: the base has no classification head{' left' if head else ''}, and the number of classes is not known",
                hint="Give labelled data, or a delta that carries the head.",
            )
        return _Head(num_labels, False)
    weight = head.get("classifier.weight")
    shape = reader.info(weight.stored).shape if weight else ()
    own = shape[0] if len(shape) == 2 else None
    if "pooler.weight" not in matched.found:
        raise ModelError(
            f"{reader.path}: the base's classifier reads no pooler: it was trained for another task",
            hint=FRESH_HEAD,
        )
    _check_problem(reader, raw, own)
    if own is not None and num_labels is not None and own != num_labels:
        ours, theirs = ("one output, for numbers" if n == 1 else f"{n} classes" for n in (own, num_labels))
        raise ModelError(f"{reader.path}: the base's head has {ours}, the data {theirs}", hint=FRESH_HEAD)
    return _Head(own or num_labels or 2, True)


def _check_problem(reader: TensorReader, raw: Mapping[str, Any], outputs: int | None) -> None:
    """Raises ModelError for a head that was trained with another loss than the one its number of outputs is given here.

    As transformers has it: one output is for regression, several are for classes, unless problem_type says otherwise.
    """
    problem, suited = raw.get("problem_type"), "regression" if outputs == 1 else "single_label_classification"
    if problem not in (None, suited):
        raise ModelError(
            f'{reader.path}: problem_type = "{problem}" of config.json is not supported for the base\'s own head of '
            f'{outputs} output{"s" * (outputs != 1)}; supported: "{suited}"',
            hint=FRESH_HEAD,
        )
    made_for = str(raw.get("architectures") or "")
    if outputs == 1 and problem is None and "ForSequenceClassification" not in made_for:
        raise ModelError(
            f"{reader.path}: the base's head has one output, and config.json does not say that it is for regression: it may be of "
            "multiple choice, which is not supported",
            hint=f'{FRESH_HEAD} Where it is for regression, config.json needs "problem_type": "regression".',
        )
