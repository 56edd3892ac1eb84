"""Sharding by plain numpy, written apart from petrun's: coordinates in the device matrix, np.split along one axis after another."""

import numpy as np

from petrun.tensors import TensorLayout, array_entries, write_ckpt, write_safetensors


def shard_of(whole, device, layout):
    """What one device of a stage holds of a tensor."""
    sizes = layout.devices
    at = np.unravel_index(device, sizes)
    shard = whole
    for dimension, axes in enumerate(layout.axes):
        for axis in axes:
            axis_at = len(sizes) - 1 - axis
            shard = np.split(shard, sizes[axis_at], axis=dimension)[at[axis_at]]
    if layout.opt_size:
        sharded = [len(sizes) - 1 - axis for axes in layout.axes for axis in axes]
        alike = [
            other
            for other in range(int(np.prod(sizes)))
            if all(np.unravel_index(other, sizes)[axis_at] == at[axis_at] for axis_at in sharded)
        ]
        size = len(alike) if layout.opt_size < 0 else layout.opt_size
        shard = np.split(shard, size, axis=0)[alike.index(device) % size]
    return np.array(shard, order="C")


def shard_of_rank(whole, rank, name, stages):
    """Of a pipeline: stages is a list of {name: layout}. None where the rank's stage does not hold it."""
    per_stage = next(iter(stages[0].values())).count
    layout = stages[rank // per_stage].get(name)
    return None if layout is None else shard_of(whole, rank % per_stage, layout)


def rank_count(stages):
    return len(stages) * next(iter(stages[0].values())).count


def write_ranks(folder, arrays, stages, *, file="model.ckpt", dtype=None, change=None):
    """rank_0/model.ckpt, ...: every rank's shards. change(rank, shards) -> the shards that are written instead."""
    for rank in range(rank_count(stages)):
        shards = {name: shard_of_rank(whole, rank, name, stages) for name, whole in arrays.items()}
        shards = {name: shard for name, shard in shards.items() if shard is not None}
        shards = change(rank, shards) if change is not None else shards
        path = folder / f"rank_{rank}" / file.replace("{rank}", str(rank))
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_ckpt if path.suffix == ".ckpt" else write_safetensors)(path, array_entries(shards, dtype))
    return folder


def dp2_tp4(arrays, *, opt_size=0):
    """One stage of (2, 4) devices: matrices split by rows where these divide, else by columns; vectors whole."""
    return [{name: _rows_or_columns(a, (2, 4), opt_size) for name, a in arrays.items()}]


def dp8_optimizer(arrays):
    """Data parallel, and dimension 0 sharded among all 8 where it divides, else among 2 or not at all."""

    def layout(a):
        size = next((s for s in (8, 2) if a.ndim and a.shape[0] % s == 0), 0)
        return TensorLayout.of((8,), [-1] * a.ndim, opt_size=-1 if size == 8 else size)

    return [{name: layout(a) for name, a in arrays.items()}]


def dp2_tp2_pp2(arrays, second, both=()):
    """Two stages of (2, 2): `second(name)` says what is of the second one; `both`: parameters of both."""
    stages = [{}, {}]
    for name, a in arrays.items():
        for stage in (0, 1) if name in both else (int(second(name)),):
            stages[stage][name] = _rows_or_columns(a, (2, 2), 0)
    return stages


def _rows_or_columns(a, devices, opt_size):
    split = devices[1]
    if a.ndim == 2 and a.shape[0] % (split * max(opt_size, 1)) == 0:
        return TensorLayout.of(devices, (0, -1), opt_size=opt_size)
    if a.ndim == 2 and a.shape[1] % split == 0:
        return TensorLayout.of(devices, (-1, 0))
    return TensorLayout.of(devices, [-1] * a.ndim)
