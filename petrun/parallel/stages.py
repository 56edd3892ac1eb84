"""Assign the cells of a net to the stages of a pipeline.

The layers are divided evenly, in their order. The cells before them in the net belong to the first stage, those after them to the last.
Tables that all layers need are made on each stage: the net gives a cell for each stage, from `open_stages(count)`.
"""

from __future__ import annotations

from petrun.errors import ConfigError
from petrun.graph.sites import Sites, fits
from petrun.kernels import count_on_stage
from petrun.parallel.layout import Layout
from petrun.typing import Cell, Parameter


def assign_stages(net: Cell, sites: Sites, layout: Layout) -> None:
    """Set the stage of every cell.

    Raises ConfigError where the model has no layers that divide, or layers of a stage train nothing, or what layers of another train.
    """
    if not sites.blocks or not hasattr(net, "open_stages"):
        raise ConfigError(
            f"--parallel {layout}: this model does not say how its layers are divided into stages",
            hint="Use dp, tp and zero.",
        )
    layers = [path for path, _ in net.cells_and_names() if fits(sites.blocks, path)]
    if len(layers) % layout.pp:
        raise ConfigError(
            f"--parallel {layout}: pp={layout.pp} does not divide {len(layers)} layers",
            hint="Give a number of stages that does, or pp=1.",
        )
    _require_separate(net, layers, layout)
    tables = net.open_stages(layout.pp)
    shared = {path for path, cell in net.cells_and_names() if any(cell is table for table in tables)}
    layer, outer = -1, "-"
    idle = set(range(layout.pp))
    owners: dict[int, tuple[Parameter, set[int]]] = {}
    for path, cell in net.cells_and_names():
        layer = layers.index(path) if path in layers else layer
        holds = path == "" or any(inner.startswith(f"{path}.") for inner in (*layers, *shared))
        if holds or any(f"{path}.".startswith(f"{table}.") for table in shared):
            continue
        inside = layer >= 0 and f"{path}.".startswith(f"{layers[layer]}.")
        stage = layer * layout.pp // len(layers) if inside else 0 if layer < 0 else layout.pp - 1
        count_on_stage(cell, stage)
        for parameter in cell.get_parameters(expand=False):
            owners.setdefault(id(parameter), (parameter, set()))[1].add(stage)
        # A prompt on the first stage and a classifier on the last are not enough: MindSpore needs a gradient that begins in the stage's
        # layers.
        if inside and any(p.requires_grad for p in cell.get_parameters(expand=False)):
            idle.discard(stage)
        # Cells within cells get no stage: MindSpore inlines a function with a stage later than others.
        if not path.startswith(f"{outer}."):
            cell.pipeline_stage, outer = stage, path
    for parameter, found in owners.values():
        if len(found) > 1:
            # A tied embedding is sent from stage to stage; zero would shard it on the first alone, and the shapes would not match.
            parameter.parallel_optimizer = False
    for stage, table in enumerate(tables):
        table.pipeline_stage = stage
    if idle:
        names = ", ".join(str(stage) for stage in sorted(idle))
        raise ConfigError(
            f"--parallel {layout}: in the layers of stage {names} of 0 to {layout.pp - 1} nothing trains, which MindSpore refuses",
            hint="Train something in every layer, as LoRA does, or use dp, tp and zero.",
        )


def _require_separate(net: Cell, layers: list[str], layout: Layout) -> None:
    """Raise ConfigError where layers of two stages train the same cell, such as the network of a prefix.

    MindSpore 2.10 finds no end of a micro-batch's backward pass then.
    """
    cells = dict(net.cells_and_names())
    found: dict[int, tuple[str, int]] = {}
    for number, path in enumerate(layers):
        stage = number * layout.pp // len(layers)
        # Each layer is walked by itself, as one walk over the net names a shared cell only once.
        for inner, cell in cells[path].cells_and_names():
            if not any(p.requires_grad for p in cell.get_parameters(expand=False)):
                continue
            first, owner = found.setdefault(id(cell), (f"{path}.{inner}", stage))
            if owner != stage:
                raise ConfigError(
                    f"--parallel {layout}: {first} trains in the layers of stages {owner} and {stage}, which MindSpore does not compile",
                    hint="Use dp, tp and zero, or a method that trains each layer by itself, as LoRA does.",
                )
