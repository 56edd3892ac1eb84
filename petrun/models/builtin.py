"""Build a built-in family's net and load its base."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mindspore import nn

from petrun.data.tasks import TOKENS
from petrun.errors import ModelError
from petrun.graph.outline import mark_outline
from petrun.graph.packed_weight import pack, packed_of
from petrun.graph.surgery import cells
from petrun.models.base import Family, FamilyConfig, LoadedModel
from petrun.models.folder import eos_ids, label_names
from petrun.models.quantised import form_of, original_of, outlined_layouts, require_matrices
from petrun.models.weights import Match, Place, absent, check, init_fresh, load, match
from petrun.tensors import TensorReader
from petrun.tensors.quantised.packed import PackedMatrix
from petrun.tensors.quantised.reader import held_packed
from petrun.typing import Cell, JsonObject


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """A base's config.json, parsed by its family."""

    path: Path
    raw: JsonObject
    family: Family
    config: FamilyConfig
    """The family's own fields, read from `raw`."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The classification head that a run requests."""

    num_labels: int | None = None
    """None: as many outputs as the base's own."""
    fresh: bool = False
    """Whether to leave out the base's own."""


def assemble(reader: TensorReader, base: BaseConfig, head: Head, compute_dtype: str, seed: int) -> LoadedModel:
    """Match the file's tensors, choose the head, build the net, check, load. Raises ModelError and WeightsError.

    `reader`: as quantised_view gives it; the layers whose matrices are in codes hold them.
    """
    family, sites = base.family, base.family.sites(base.config)
    names = family.names(base.config)
    matched = match(reader, names, family.prefixes, family.ignored)
    found = _resolve_head(reader, matched, base, head) if base.family.has_classes else _NO_HEAD
    net = family.build(base.config, compute_dtype=compute_dtype, dropout_seed=seed, num_labels=found.classes)
    fresh = absent(matched, names)
    check(reader, matched, names, net, fresh)
    digests = load(reader, matched, net, sites.trained_heads, _packed_layers(reader, matched, net))
    init_fresh(net, fresh, seed, base.config.init_range)
    loaded = _filled(base, net, found, fresh, digests.content)
    form = form_of(reader)
    return replace(loaded, quantisation=form, original_digest=digests.original or (original_of(reader) if form else ""))


def _packed_layers(reader: TensorReader, matched: Match, net: Cell) -> Place:
    """Make room in the net for matrices in codes. Returns the function that fills it."""
    layouts = {}
    for ours, source in matched.found.items():
        tensor = held_packed(reader, source.stored)
        if tensor is not None:
            layouts[ours.removesuffix(".weight")] = tensor.layout
    pack(net, layouts)
    table = cells(net)

    def place(ours: str, matrix: PackedMatrix) -> None:
        packed = packed_of(table[ours.removesuffix(".weight")])
        assert packed is not None, ours
        packed.fill(matrix)

    return place


def outline(
    base: BaseConfig, classes: int | None, compute_dtype: str, seed: int, quantisation: str | None = None
) -> LoadedModel:
    """Build the net of a config.json; its parameters are zeros that take no memory until they are written to. For a classifier
    `classes` counts its head's outputs; the head trains as a new one does."""
    require_matrices(base.family.names(base.config), base.raw, quantisation)
    head = _Head(classes or 2, False) if base.family.has_classes else _NO_HEAD
    net = base.family.build(base.config, compute_dtype=compute_dtype, dropout_seed=seed, num_labels=head.classes)
    linears = {path: cell for path, cell in cells(net).items() if isinstance(cell, nn.Dense)}
    shapes = {path: (cell.out_channels, cell.in_channels) for path, cell in linears.items()}
    layouts = outlined_layouts(base.raw, base.family.sites(base.config), shapes, quantisation)
    pack(net, layouts)
    mark_outline(net)
    form = "+".join(sorted({layout.form for layout in layouts.values()}))
    return replace(_filled(base, net, head, (), ""), quantisation=form)


def _filled(base: BaseConfig, net: Cell, head: _Head, fresh: tuple[str, ...], digest: str) -> LoadedModel:
    family, config, raw, path = base.family, base.config, base.raw, base.path
    sites = family.sites(config)
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
        names=family.names(config),
        fresh=fresh,
        base_digest=digest,
        folder=path.parent,
        max_positions=config.positions,
        # Padding is masked: where the stated id is not in the vocabulary, any other can be used.
        pad_token_id=pad if isinstance(pad, int) and 0 <= pad < config.vocab else 0,
        eos_token_ids=eos_ids(raw, path.parent),
        num_labels=head.classes,
        labels=label_names(raw, head.classes) if head.own and head.classes else (),
    )


@dataclass(frozen=True)
class _Head:
    classes: int | None
    own: bool
    """Whether the base's head is kept."""


_NO_HEAD = _Head(None, False)
FRESH_HEAD = "--set model.fresh_head=true puts a new head in its place."


def _resolve_head(reader: TensorReader, matched: Match, base: BaseConfig, asked: Head) -> _Head:
    """Decide between the base's head and a new one; a head that is not kept is removed from the match."""
    cell, num_labels = base.family.sites(base.config).head, asked.num_labels
    head = {ours: s for ours, s in matched.found.items() if ours.startswith(f"{cell}.")}
    if num_labels is not None and num_labels < 1:
        raise ModelError(f"a head needs at least one output, not {num_labels}")
    if not head or asked.fresh:
        for ours in head:
            del matched.found[ours]
        if num_labels is None:
            raise ModelError(
                f"{reader.path}: the base has no classification head{' left' if head else ''}, and the number of classes is not known",
                hint="Give labelled data, or a delta that carries the head.",
            )
        return _Head(num_labels, False)
    weight = head.get(f"{cell}.weight")
    shape = reader.info(weight.stored).shape if weight else ()
    own = shape[0] if len(shape) == 2 else None
    # Besides the head, a base may lack only the pooler that the head reads.
    missing = {ours.rpartition(".")[0] for ours in absent(matched, base.family.names(base.config))} - {cell}
    if missing:
        raise ModelError(
            f"{reader.path}: the base's {cell} reads no {', '.join(sorted(missing))}: it was trained for another task",
            hint=FRESH_HEAD,
        )
    _check_problem(reader, base, own)
    if own is not None and num_labels is not None and own != num_labels:
        ours, theirs = ("one output, for numbers" if n == 1 else f"{n} classes" for n in (own, num_labels))
        raise ModelError(f"{reader.path}: the base's head has {ours}, the data {theirs}", hint=FRESH_HEAD)
    return _Head(own or num_labels or 2, True)


def _check_problem(reader: TensorReader, base: BaseConfig, outputs: int | None) -> None:
    """Raises ModelError for a head that was trained with another loss than the one its number of outputs is given here.

    As in transformers: one output is for regression, several are for classes, unless problem_type differs.
    """
    raw = base.raw
    if TOKENS in base.family.tasks:
        _check_made_for_tokens(reader, base)
        return
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


def _check_made_for_tokens(reader: TensorReader, base: BaseConfig) -> None:
    """Raises ModelError for a head that config.json does not call one of tokens: BERT's head of rows has the same name."""
    wanted = base.family.hf_classes[base.raw["model_type"]]
    if wanted not in str(base.raw.get("architectures") or ""):
        raise ModelError(
            f"{reader.path}: the base has a head {base.family.sites(base.config).head}, and config.json does not say that it is of tokens",
            hint=f'{FRESH_HEAD} Where it is, config.json needs "architectures": ["{wanted}"].',
        )
