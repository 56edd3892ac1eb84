"""Cutting by plain numpy, written apart from petrun's: coordinates in the device matrix, np.split along one axis after another."""

import numpy as np

from petrun.tensors import TensorLayout, array_entries, write_ckpt, write_safetensors


def shard_of(whole, device, layout):
    """What one device of a stage holds of a tensor."""
    sizes = layout.devices
    at = np.unravel_index(device, sizes)
    piece = whole
    for dimension, axes in enumerate(layout.axes):
        for axis in axes:
            place = len(sizes) - 1 - axis
            piece = np.split(piece, sizes[place], axis=dimension)[at[place]]
    if layout.opt_size:
        cutting = [len(sizes) - 1 - axis for axes in layout.axes for axis in axes]
        alike = [
            other
            for other in range(int(np.prod(sizes)))
            if all(np.unravel_index(other, sizes)[place] == at[place] for place in cutting)
        ]
        size = len(alike) if layout.opt_size < 0 else layout.opt_size
        piece = np.split(piece, size, axis=0)[alike.index(device) % size]
    return np.array(piece, order="C")


def shard_of_rank(whole, rank, name, stages):
    """Of a pipeline: stages is a list of {name: layout}. None where the rank's stage does not hold it."""
    per_stage = next(iter(stages[0].values())).count
    layout = stages[rank // per_stage].get(name)
    return None if layout is None else shard_of(whole, rank % per_stage, layout)


def rank_count(stages):
    return len(stages) * next(iter(stages[0].values())).count


def write_ranks(folder, arrays, stages, *, file="model.ckpt", dtype=None, change=None):
    """rank_0/model.ckpt, ...: every rank's pieces. change(rank, pieces) -> the pieces that are written instead."""
    for rank in range(rank_count(stages)):
        pieces = {name: shard_of_rank(whole, rank, name, stages) for name, whole in arrays.items()}
        pieces = {name: piece for name, piece in pieces.items() if piece is not None}
        pieces = change(rank, pieces) if change is not None else pieces
        place = folder / f"rank_{rank}" / file.replace("{rank}", str(rank))
        place.parent.mkdir(parents=True, exist_ok=True)
        (write_ckpt if place.suffix == ".ckpt" else write_safetensors)(place, array_entries(pieces, dtype))
    return folder


def dp2_tp4(arrays, *, opt_size=0):
    """One stage of (2, 4) devices: matrices split by rows where these divide, else by columns; vectors whole."""
    return [{name: _rows_or_columns(a, (2, 4), opt_size) for name, a in arrays.items()}]


def dp8_optimizer(arrays):
    """Data parallel, and dimension 0 cut among all 8 where it divides, else among 2 or not at all."""

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
