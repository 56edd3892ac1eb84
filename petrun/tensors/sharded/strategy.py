"""Read strategy files: the sharding of a job's parameters, as MindSpore writes it.

    message ParallelStrategyMap { uint32 current_stage; repeated ParallelStrategyItem; repeated ParallelLayoutItem }
    message ParallelStrategyItem { string node_name; ParallelStrategys { uint32 stage; ... } }
    message ParallelLayoutItem { string param_name; ParallelLayouts { dev_matrix, tensor_map, param_split_shape, indices_offset,
                                 field, opt_weight_shard_step, opt_weight_shard_size } }

Source: mindspore/train/node_strategy.proto and parallel/_parallel_serialization.py (2.10). Files whose name ends in .json
hold the same as JSON. A pipeline's stages have a file each; a file that merge_pipeline_strategys made of them names its parameters
`<stage>-<name>`.
By default MindSpore lists only what was trained: such a file of a LoRA job does not say how its base was sharded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from petrun.errors import WeightsError, perhaps
from petrun.tensors.sharded.layout import TensorLayout
from petrun.tensors.sharded.strategy_file import Items, scan_strategy, write_items
from petrun.tensors.table import unreadable

COMPLETE = (
    "MindSpore lists only trained parameters unless told otherwise: set_auto_parallel_context(strategy_ckpt_config="
    "{'save_file': FILE, 'only_trainable_params': False}), or AutoParallel.disable_strategy_file_only_for_trainable_params(). "
    "For a base, give the strategy file of its pre-training."
)
"""Says how to save a strategy file that lists every parameter."""
_MERGED = re.compile(r"(\d+)-(.+)", re.DOTALL)
_LISTED = 8


@dataclass(frozen=True)
class Strategy:
    """The sharding of every parameter. A rank is stage * stage_devices + device."""

    path: Path
    stages: tuple[Mapping[str, TensorLayout], ...]
    """Parameter name -> layout, for each pipeline stage. A parameter may belong to several stages."""

    @property
    def stage_devices(self) -> int:
        return next(layout.count for stage in self.stages for layout in stage.values())

    @property
    def devices(self) -> int:
        return self.stage_devices * len(self.stages)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage))

    def __contains__(self, name: object) -> bool:
        return any(name in stage for stage in self.stages)

    def of_rank(self, rank: int) -> Mapping[str, TensorLayout]:
        return self.stages[rank // self.stage_devices]

    def stages_of(self, name: str) -> tuple[int, ...]:
        """Return the pipeline stages that hold the parameter."""
        return tuple(number for number, stage in enumerate(self.stages) if name in stage)

    def describe(self, name: str) -> str:
        """Return the sharding of one parameter: `in 8 x 1` of its dimensions, the share of the optimizer parallel, the stages that hold
        it."""
        stages = self.stages_of(name)
        layout = self.stages[stages[0]][name]
        text = f"in {' x '.join(map(str, layout.splits))}" if any(split > 1 for split in layout.splits) else "whole"
        group = layout.optimizer_group
        text += f", {len(group)} of it by the optimizer parallel" if len(group) > 1 else ""
        return text + (f", on stage {', '.join(map(str, stages))}" if len(self.stages) > 1 else "")


def read_strategy(path: Path) -> Strategy:
    """Read one strategy file (protobuf or JSON, of one stage or merged) or a folder of stage strategies.

    Raises WeightsError: no such path, a file of another kind, no layouts, a layout that contradicts itself or the others, stages that
    are missing or differ between two files.
    """
    try:
        if path.is_dir():
            return _checked(Strategy(path, _join(path, [(file, scan_strategy(file)) for file in _stage_files(path)])))
        items = scan_strategy(path)
    except OSError as error:
        raise unreadable(path, error) from error
    merged = [_MERGED.fullmatch(name) for name in items.layouts]
    if items.layouts and all(merged):
        return _checked(Strategy(path, _split(path, items)))
    if any(merged):
        raise WeightsError(
            f"{path}: some of its parameters are named <stage>-<name>, others are not",
            hint="Merge the stages' own files again, or give the folder that holds them.",
        )
    stage = items.stage(path)
    if stage not in (None, 0):
        raise WeightsError(
            f"{path}: is of pipeline stage {stage}; the other stages' files are needed as well",
            hint="Give the folder that holds the strategy file of every stage.",
        )
    return _checked(Strategy(path, (items.layouts,)))


def write_strategy(path: Path, strategy: Strategy | Mapping[str, TensorLayout]) -> None:
    """Write a strategy file, atomically: protobuf, or JSON where the name ends in .json. Several stages become a merged file.

    Raises WeightsError for layouts that `read_strategy` would refuse, OutputError where it cannot be written.
    """
    complete = strategy if isinstance(strategy, Strategy) else Strategy(path, (strategy,))
    _checked(complete)
    several = len(complete.stages) > 1
    layouts = {
        f"{stage}-{name}" if several else name: layout
        for stage, each in enumerate(complete.stages)
        for name, layout in each.items()
    }
    write_items(path, layouts, range(len(complete.stages)))


def require_complete(strategy: Strategy, names: Iterable[str]) -> None:
    """Raises WeightsError where a parameter, frozen ones included, has no layout: its shards could not be told from the full tensor."""
    absent = [name for name in names if name not in strategy]
    if absent:
        raise WeightsError(
            f"{strategy.path}: says nothing of {spell(absent)}. {perhaps(absent[0], strategy.names)}".rstrip(),
            hint=COMPLETE,
        )


def spell(names: Sequence[str], noun: str = "parameters") -> str:
    """`3 parameters: a, b, ...`, or the name of a single one."""
    if len(names) == 1:
        return names[0]
    return f"{len(names)} {noun}: {', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"


def _stage_files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    kinds = {suffix: [p for p in files if p.suffix == suffix] for suffix in (".ckpt", ".json")}
    found = [suffix for suffix, each in kinds.items() if each]
    if not found:
        raise WeightsError(
            f"{folder}: holds no strategy file (.ckpt or .json)",
            hint="Give a strategy file, or the folder that holds one of every pipeline stage.",
        )
    if len(found) > 1:
        raise WeightsError(
            f"{folder}: holds strategy files of both kinds: {kinds['.ckpt'][0].name} and {kinds['.json'][0].name}",
            hint="Keep those of one job, all .ckpt or all .json, in a folder of their own.",
        )
    return kinds[found[0]]


def _join(folder: Path, files: Sequence[tuple[Path, Items]]) -> tuple[Mapping[str, TensorLayout], ...]:
    """Join the files of all stages. Every rank may have written its stage's file: the files of one stage must agree."""
    if len(files) == 1 and all(_MERGED.fullmatch(name) for name in files[0][1].layouts):
        return _split(*files[0])
    stages: dict[int, tuple[Path, Mapping[str, TensorLayout]]] = {}
    for file, items in files:
        stage = items.stage(file)
        if stage is None and len(files) > 1:
            raise WeightsError(
                f"{file}: does not say of which pipeline stage it is: it lists no operators",
                hint="Give the strategy files as MindSpore wrote them.",
            )
        before = stages.setdefault(stage or 0, (file, items.layouts))
        if before[1] != items.layouts:
            raise WeightsError(
                f"{folder}: {before[0].name} and {file.name} are both of pipeline stage {stage or 0} and differ "
                f"({_difference(before[1], items.layouts)})",
                hint="Keep the strategy files of one job in a folder of their own.",
            )
    return _in_order(folder, {stage: layouts for stage, (_, layouts) in stages.items()})


def _difference(one: Mapping[str, TensorLayout], other: Mapping[str, TensorLayout]) -> str:
    return next(name for name in {**one, **other} if one.get(name) != other.get(name))


def _split(path: Path, items: Items) -> tuple[Mapping[str, TensorLayout], ...]:
    """Split a merged file into stages: `1-layers.2.weight` is of stage 1."""
    stages: dict[int, dict[str, TensorLayout]] = {}
    for merged, layout in items.layouts.items():
        stage, _, name = merged.partition("-")
        stages.setdefault(int(stage), {})[name] = layout
    return _in_order(path, stages)


def _in_order(path: Path, stages: Mapping[int, Mapping[str, TensorLayout]]) -> tuple[Mapping[str, TensorLayout], ...]:
    missing = sorted(set(range(max(stages, default=0) + 1)) - set(stages))
    if missing:
        raise WeightsError(
            f"{path}: has pipeline stage {max(stages)} and not stage {missing[0]}",
            hint="Give the folder that holds the strategy file of every stage.",
        )
    return tuple(stages[number] for number in range(len(stages)))


def _checked(strategy: Strategy) -> Strategy:
    """Raises WeightsError with every layout that contradicts itself, or the number of devices of the others."""
    if not strategy.stages or not all(strategy.stages):
        raise WeightsError(
            f"{strategy.path}: holds no layouts: it does not say how any parameter was sharded",
            hint="Was anything sharded when it was saved? " + COMPLETE,
        )
    problems = list(_problems(strategy))
    if problems:
        more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise WeightsError(
            "\n  ".join([f"{strategy.path}: is not a consistent strategy:", *problems[:_LISTED], *more]),
            hint="Use the strategy file as MindSpore wrote it.",
        )
    return strategy


def _problems(strategy: Strategy) -> Iterator[str]:
    counts = [layout.count for stage in strategy.stages for layout in stage.values()]
    usual = max(counts, key=counts.count) if len(counts) < 1000 else counts[0]
    for stage in strategy.stages:
        for name, layout in stage.items():
            problem = layout.problem()
            if problem:
                yield f"{name}: {problem}"
            elif layout.count != usual:
                yield f"{name}: its device matrix {list(layout.devices)} is of {layout.count} devices, others' of {usual}"
