"""Read and write the two formats of strategy files: MindSpore's protobuf message, and JSON. strategy.py interprets them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from petrun.errors import OutputError, WeightsError
from petrun.tensors.atomic import atomic_file
from petrun.tensors.sharded.layout import TensorLayout
from petrun.typing import JsonObject

_KIND = "Give the strategy file that the job saved (strategy_ckpt_config), not a checkpoint."
_AGAIN = "The file is damaged, or was edited: use it as MindSpore wrote it."
_LAYOUTS, _NODES = "parallel_layout_item", "parallel_strategy_item"
_FIELDS = ("dev_matrix", "tensor_map", "field", "opt_weight_shard_step", "opt_weight_shard_size")


@dataclass(frozen=True)
class Items:
    """The contents of one file."""

    layouts: Mapping[str, TensorLayout]
    """The layouts by the file's names; in a merged file a name begins with the stage."""
    stages: frozenset[int]
    """Pipeline stages that its operators name."""

    def stage(self, path: Path) -> int | None:
        """Return the one stage that the file is of; None where it names none."""
        if len(self.stages) > 1:
            raise WeightsError(
                f"{path}: names operators of pipeline stages {sorted(self.stages)} and parameters of none",
                hint="Give the folder that holds the strategy file of every stage.",
            )
        return next(iter(self.stages), None)


def scan_strategy(path: Path) -> Items:
    """Read one file. Raises WeightsError naming it and the parameter at fault; OSError as it comes."""
    content = path.read_bytes()
    if not content:
        raise WeightsError(f"{path}: is empty", hint=_KIND)
    return _scan_json(path, content) if path.suffix == ".json" else _scan_protobuf(path, content)


def _message(**fields: int) -> Any:
    """Return MindSpore's protobuf message. Imported here because the import takes a second and few commands need it."""
    from mindspore.train import node_strategy_pb2

    return node_strategy_pb2.ParallelStrategyMap(**fields)


def _scan_protobuf(path: Path, content: bytes) -> Items:
    from google.protobuf.message import DecodeError

    message = _message()
    # The first field of a strategy is a number, that of a checkpoint a message: the parser would read one as the other, without layouts.
    if content[:1] != b"\x08":
        raise WeightsError(f"{path}: is not a strategy file", hint=_KIND)
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise WeightsError(f"{path}: is not a whole strategy file ({error})", hint=_AGAIN) from error
    if not message.IsInitialized():
        raise WeightsError(
            f"{path}: is not a whole strategy file: {message.FindInitializationErrors()[0]} is missing", hint=_AGAIN
        )
    layouts: dict[str, TensorLayout] = {}
    for item in message.parallel_layout_item:
        _take(path, layouts, item.param_name, _from_message(path, item.param_name, item.parallel_layouts))
    return Items(layouts, frozenset(item.parallel_strategys.stage for item in message.parallel_strategy_item))


def _from_message(path: Path, name: str, found: Any) -> TensorLayout:
    devices = [tuple(each.dim) for each in found.dev_matrix]
    maps = [tuple(each.dim) for each in found.tensor_map]
    if len(devices) != 1 or not maps:
        raise WeightsError(f"{path}: {name} has no device matrix or no tensor map", hint=_AGAIN)
    _refuse_uneven(path, name, found.field, [size for each in found.param_split_shape for size in each.dim])
    # One list: an axis for each dimension. Several: a list of axes for each dimension.
    dimensions = [[axis] for axis in maps[0]] if len(maps) == 1 else [list(each) for each in maps]
    return TensorLayout(
        devices=devices[0],
        axes=_axes(dimensions),
        opt_size=found.opt_weight_shard_size,
        opt_step=found.opt_weight_shard_step,
    )


def _axes(dimensions: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(() if list(axes) == [-1] else tuple(axes) for axes in dimensions)


def _refuse_uneven(path: Path, name: str, field: int, sizes: Sequence[int]) -> None:
    if field or len(set(sizes)) > 1:
        raise WeightsError(
            f"{path}: {name} is split into shards of unequal size (param_split_shape {list(sizes)}, field {field}), which is not supported",
            hint="Save that embedding with an even split.",
        )


def _take(path: Path, layouts: dict[str, TensorLayout], name: str, layout: TensorLayout) -> None:
    if name in layouts:
        raise WeightsError(f"{path}: lists {name} twice", hint=_AGAIN)
    layouts[name] = layout


def _scan_json(path: Path, content: bytes) -> Items:
    try:
        raw = json.loads(content.decode("utf-8"), object_pairs_hook=lambda pairs: _unique(path, pairs))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is not valid JSON ({error})", hint=_AGAIN) from error
    listed = raw.get(_LAYOUTS, {}) if isinstance(raw, dict) else None
    nodes = raw.get(_NODES, {}) if isinstance(raw, dict) else None
    if (
        not isinstance(listed, dict)
        or not isinstance(nodes, dict)
        or not {_LAYOUTS, _NODES, "current_stage"} & set(raw)
    ):
        raise WeightsError(f"{path}: is not a strategy file: it has no {_LAYOUTS}", hint=_KIND)
    layouts = {name: _from_json(path, name, item if isinstance(item, dict) else {}) for name, item in listed.items()}
    stages = [
        stage
        for stage in [node.get("stage") if isinstance(node, dict) else None for node in nodes.values()]
        if _is_whole(stage)
    ]
    if len(stages) < len(nodes):
        raise WeightsError(f"{path}: one of its operators has no pipeline stage", hint=_AGAIN)
    return Items(layouts, frozenset(stages))


def _unique(path: Path, pairs: Sequence[tuple[str, object]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise WeightsError(f"{path}: lists {twice} twice", hint=_AGAIN)
    return found


def _from_json(path: Path, name: str, item: JsonObject) -> TensorLayout:
    absent = [key for key in _FIELDS if key not in item]
    if absent:
        raise WeightsError(f"{path}: {name} has no {absent[0]}", hint=_AGAIN)
    devices, axes, shape = item["dev_matrix"], item["tensor_map"], item.get("tensor_shape")
    split = item.get("param_split_shape") or []
    # A value that is not a list becomes one that is not a number, and is refused with the others.
    rows: list[Any] = axes if isinstance(axes, list) else [None]
    dimensions = [each if isinstance(each, list) else [each] for each in rows]
    numbers = [
        *(devices if isinstance(devices, list) else [None]),
        *(axis for each in dimensions for axis in each),
    ]
    for more in (split, shape or []):
        numbers += more if isinstance(more, list) else [None]
    numbers += [item[key] for key in _FIELDS[2:]]
    if not all(_is_whole(number, least=-1) for number in numbers):
        raise WeightsError(f"{path}: {name} has a value that is no whole number, or none from -1 on", hint=_AGAIN)
    _refuse_uneven(path, name, item["field"], split)
    full_shape = tuple(shape) if shape is not None else None
    return TensorLayout(
        devices=tuple(devices),
        axes=_axes(dimensions),
        opt_size=item["opt_weight_shard_size"],
        opt_step=item["opt_weight_shard_step"],
        shape=full_shape,
    )


def _is_whole(value: object, least: int = 0) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 31


def write_items(path: Path, layouts: Mapping[str, TensorLayout], stages: Iterable[int]) -> None:
    """Write one file with an operator of each stage, because MindSpore reads the stage from operators. Raises OutputError."""
    content = _to_json(path, layouts, stages) if path.suffix == ".json" else _to_protobuf(layouts, stages)
    with atomic_file(path) as (file, _):
        file.write(content)


def _node(stage: int) -> str:
    return f"petrun_stage_{stage}"


def _to_protobuf(layouts: Mapping[str, TensorLayout], stages: Iterable[int]) -> bytes:
    message = _message(current_stage=1)
    for stage in stages:
        message.parallel_strategy_item.add(node_name=_node(stage)).parallel_strategys.stage = stage
    for name, layout in layouts.items():
        found = message.parallel_layout_item.add(param_name=name).parallel_layouts
        found.dev_matrix.add(dim=layout.devices)
        if any(len(axes) > 1 for axes in layout.axes):
            for axes in layout.axes:
                found.tensor_map.add(dim=axes or (-1,))
        else:
            found.tensor_map.add(dim=[axis for axes in layout.axes for axis in axes or (-1,)])
        found.param_split_shape.add()
        found.indices_offset.add()
        found.field = 0
        found.opt_weight_shard_step, found.opt_weight_shard_size = layout.opt_step, layout.opt_size
    content: bytes = message.SerializeToString()
    return content


def _to_json(path: Path, layouts: Mapping[str, TensorLayout], stages: Iterable[int]) -> bytes:
    listed = {}
    for name, layout in layouts.items():
        if any(len(axes) > 1 for axes in layout.axes):
            raise OutputError(
                f"{path}: JSON cannot say that one dimension of {name} is sharded along several axes",
                hint="Write the strategy as .ckpt.",
            )
        listed[name] = {
            "dev_matrix": list(layout.devices),
            "tensor_map": [axis for axes in layout.axes for axis in axes or (-1,)],
            "field": 0,
            "opt_weight_shard_step": layout.opt_step,
            "opt_weight_shard_size": layout.opt_size,
            **({"tensor_shape": list(layout.shape)} if layout.shape is not None else {}),
        }
    nodes = {_node(stage): {"stage": stage, "parallel_strategy": []} for stage in stages}
    return json.dumps({"current_stage": 1, _LAYOUTS: listed, _NODES: nodes}).encode()
