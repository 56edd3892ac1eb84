"""Tell what a planned run costs on cards: a row for each method and layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from mindspore import nn

from petrun.config.schema import RunConfig
from petrun.console import columns
from petrun.data.tasks import IMAGE
from petrun.delta import find_method
from petrun.errors import ConfigError, PetrunError
from petrun.graph.freeze import Trainable, trainable_of
from petrun.inference.assembly import Assembled
from petrun.models.factory import is_factory
from petrun.parallel.layout import Layout
from petrun.parallel.validate import layouts, spell
from petrun.tensors.known_names import DELTA_PREFIX
from petrun.training.planning.cost import (
    Cluster,
    NetSize,
    Operations,
    card_hours,
    operations,
    pipeline_busy,
)
from petrun.training.planning.run_plan import RunPlan, batches_of
from petrun.training.setup.outline import outline_run, sizes_of
from petrun.typing import JsonObject

_OTHERS = ("full", "lora")
"""Methods that stand beside the run's own."""
_MOST_LAYOUTS = 4


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """What one method costs in one layout."""

    algo: str
    layout: str
    recompute: str
    """none, select or full."""
    trained: int
    work: Operations
    card_hours: float
    hours: float
    price: float | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The costs of a run on a cluster."""

    cluster: Cluster
    parameters: int
    tokens: float
    """Those of padding included."""
    row_tokens: float
    rows: tuple[CostRow, ...]

    def content(self) -> JsonObject:
        """Return the costs as values for JSON."""
        return asdict(self)


def require_known_cost(config: RunConfig) -> None:
    """Raise ConfigError for a run whose operations are not those of tokens: a step of a U-Net costs what its convolutions do."""
    if config.data.task == IMAGE:
        raise ConfigError(
            "--on: what a step on pictures costs is not known yet",
            hint="Leave it out; the first steps of a run print their seconds.",
        )


def cost_of(plan: RunPlan, cluster: Cluster, throughput: float | None) -> Cost:
    """Compute the costs of a planned run. `throughput`: tokens per second on one card, as measured with the run's own method.

    Raises ConfigError for a throughput above the card's peak, and for an encoder-decoder.
    """
    if plan.assembled.loaded.is_encoder_decoder:
        raise ConfigError(
            "--on: counts a net that reads every token with all of its matrices, and the two halves of an encoder-decoder do not",
            hint="Leave it out.",
        )
    batches, config = batches_of(plan.resolved), plan.resolved.config
    tokens = batches["padded_tokens_per_epoch"] * batches["epochs"]
    row_tokens = batches["padded_tokens_per_epoch"] / max(1, batches["rows"])

    def work_of(assembled: Assembled, trainable: Trainable, recompute: str) -> Operations:
        size = net_size(assembled, trainable)
        return operations(size, tokens=tokens, row_tokens=row_tokens, steps=batches["steps"], recompute=recompute)

    recompute = str(config.parallel.recompute)
    if throughput is not None:
        own = work_of(plan.assembled, plan.trainable, recompute)
        utilisation = own.total / tokens * throughput / cluster.card.peak
        if not 0 < utilisation <= 1:
            raise ConfigError(
                f"--throughput {throughput:g}: takes {utilisation:.2f} times the peak of a {cluster.card.name}",
                hint="Tokens per second of one card, as the log of a run on it says.",
            )
        cluster = replace(cluster, utilisation=utilisation, is_measured=True)
    rows = []
    nets = [(config.algo, plan.assembled, plan.trainable), *_other_nets(config)]
    for algo, assembled, trainable in nets:
        for layout in _layouts(config, cluster.cards, algo):
            for again in dict.fromkeys((recompute, "full")):
                work = work_of(assembled, trainable, again)
                busy = pipeline_busy(layout.pp, layout.micro_batches) if layout.pp > 1 else 1.0
                together = card_hours(work, cluster, busy)
                rows.append(
                    CostRow(
                        algo=algo,
                        layout=spell(layout),
                        recompute=again,
                        trained=trainable.trained_values,
                        work=work,
                        card_hours=together,
                        hours=together / cluster.cards,
                        price=None if cluster.price is None else together * cluster.price,
                    )
                )
    size = net_size(plan.assembled, plan.trainable)
    return Cost(cluster=cluster, parameters=size.parameters, tokens=tokens, row_tokens=row_tokens, rows=tuple(rows))


def net_size(assembled: Assembled, trainable: Trainable) -> NetSize:
    """Count a net with its delta: linear layers, the delta's own matrices, what trains."""
    net, sites = assembled.loaded.net, assembled.loaded.sites
    dense = [cell for _, cell in net.cells_and_names() if isinstance(cell, nn.Dense)]
    weights = {id(cell.weight) for cell in dense if getattr(cell, "weight", None) is not None}
    own = {id(p): int(p.size) for p in net.get_parameters() if f".{DELTA_PREFIX}" in f".{p.name}"}
    matrices = {id(p): int(p.size) for p in net.get_parameters() if id(p) in own and p.ndim == 2}
    return NetSize(
        parameters=trainable.all_values - sum(own.values()),
        # Those in codes have no weight of this size.
        matrices=sum(int(cell.in_channels) * int(cell.out_channels) for cell in dense if not _is_added(cell, own)),
        added=sum(matrices.values()),
        trained_matrices=sum(int(p.size) for p in trainable.parameters if id(p) in weights or id(p) in matrices),
        trained=trainable.trained_values,
        layers=sites.layers,
        width=sites.heads * sites.head_dim,
    )


def _is_added(cell: nn.Cell, own: dict[int, int]) -> bool:
    """Return whether a linear layer is the delta's, as those of adapters are."""
    return id(getattr(cell, "weight", None)) in own


def _other_nets(config: RunConfig) -> Iterator[tuple[str, Assembled, Trainable]]:
    """Yield the net with the methods that stand beside the run's own, where it can be built without values."""
    for algo in _OTHERS:
        if algo in config.algo.split("+") or is_factory(config.model.family):
            continue
        other = config.model_copy(update={"algo": algo, "delta": find_method(algo).config()})
        try:
            assembled = outline_run(other)
        except PetrunError:
            # LoRA on a net without linear layers; full training of a base in codes.
            continue
        yield algo, assembled, trainable_of(assembled.loaded.net)


def _layouts(config: RunConfig, cards: int, algo: str) -> list[Layout]:
    """Return layouts of so many cards that divide model and batch: data parallel first, then the least split ones."""
    if find_method(algo).why_not_split:
        return [Layout(dp=cards)]
    found = layouts(cards, sizes_of(config), config.train.batch_size, config.data.seq_len or 1)
    return sorted(found, key=lambda layout: (layout.tp * layout.pp, layout.pp))[:_MOST_LAYOUTS] or [Layout(dp=cards)]


def cost_text(cost: Cost) -> str:
    """Return the costs as text for the terminal."""
    cluster = cost.cluster
    how = "measured" if cluster.is_measured else "assumed"
    head = [
        f"cost on {cluster.cards} x {cluster.card.name}: {cost.parameters:,} parameters, "
        f"{cost.tokens:,.0f} tokens with padding, in rows of about {cost.row_tokens:.0f}",
        f"peak {cluster.card.peak / 1e12:.0f} TFLOPS a card ({cluster.card.source}), utilisation {cluster.utilisation:.1%} ({how}); "
        "communication, loading and evaluations are not counted",
    ]
    titles = (
        "method",
        "layout",
        "trained",
        "forward",
        "backward",
        "again",
        "optimizer",
        "hours",
        "card-hours",
        "price",
    )
    rows = [
        (
            row.algo,
            row.layout,
            f"{row.trained:,}",
            *(f"{part:.2e}" if part else "-" for part in (row.work.forward, row.work.backward, row.work.recompute)),
            f"{row.work.optimizer:.2e}",
            _amount(row.hours),
            _amount(row.card_hours),
            "-" if row.price is None else _amount(row.price),
        )
        for row in cost.rows
    ]
    return "\n".join([*head, columns([titles, *rows])])


def _amount(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
