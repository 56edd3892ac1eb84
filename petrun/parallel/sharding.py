"""Compile a step whose operators are split, and read how MindSpore has sharded its parameters."""

from __future__ import annotations

import tempfile
from pathlib import Path

from petrun.cluster.world import World
from petrun.errors import ConfigError, SetupError
from petrun.parallel.context import write_strategy_to
from petrun.parallel.front_end import FRONT_END_ERRORS, front_end_reason
from petrun.parallel.layout import Layout
from petrun.tensors.sharded.layout import TensorLayout
from petrun.tensors.sharded.rank_files import ShardSpec
from petrun.tensors.sharded.strategy_file import scan_strategy
from petrun.train.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS
from petrun.typing import Cell


def compile_sharded(step: Cell, inputs: tuple[object, ...], layout: Layout, world: World) -> ShardSpec:
    """Compile the training step, after which each of its parameters holds this rank's shard, and read how it was sharded.

    Call it before any other graph of the net is compiled: training decides how parameters are sharded, and other graphs take them so.
    Raises ConfigError for what MindSpore's front end refuses.
    """
    with tempfile.TemporaryDirectory(prefix="petrun-strategy-") as folder:
        file = Path(folder) / "strategy.ckpt"
        write_strategy_to(file)
        try:
            step.compile(*step.arguments(*inputs))
        except FRONT_END_ERRORS as error:
            raise ConfigError(
                f"--parallel {layout}: MindSpore's front end refuses it: {front_end_reason('', str(error))}",
                hint="petrun rehearse with the same flags names the operator.",
            ) from error
        finally:
            # Later graphs would overwrite the file with a shorter strategy, as a graph without training has no optimizer.
            write_strategy_to(None)
        found = shard_layouts(step, file, layout)
    return ShardSpec(
        rank=world.rank, ranks=world.size, stages=layout.pp, layouts=found, fail_together=world.fail_together
    )


def shard_layouts(step: Cell, file: Path, layout: Layout) -> dict[str, TensorLayout]:
    """Return parameter -> layout for all that this rank holds of a compiled step, read from the strategy `file` that MindSpore wrote.

    Raises SetupError where it wrote none.
    """
    if not file.is_file():
        raise SetupError(f"--parallel {layout}: MindSpore wrote no strategy file for its step")
    found = dict(scan_strategy(file).layouts)
    devices = layout.dp * layout.tp
    names = {parameter.name for parameter in step.get_parameters()}
    beside = [pattern.removesuffix("*") for pattern in OPTIMIZERS[DEFAULT_OPTIMIZER].state if pattern.endswith(".*")]
    untouched = [name for name in found if any(b + name in names and b + name not in found for b in beside)]
    for name in untouched:
        # A tied weight that another pipeline stage trains: the copy on this stage is that of the step before.
        del found[name]
    for parameter in step.get_parameters():
        # Counters are on every rank, and a parameter that no operator of the graph reads is not sharded.
        if parameter.name not in found and (parameter.size == 1 or layout.pp == 1):
            found[parameter.name] = TensorLayout.replicated(devices, parameter.ndim)
    return found
