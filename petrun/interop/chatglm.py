"""Read the files of ChatGLM's own P-Tuning v2: a checkpoint that holds the prefix encoder alone.

In the file, `transformer.prefix_encoder.` and embedding.weight (P, 2 * L * N_kv * D), which the models' code views as (P, 2 * L, N_kv, D)
with layer l's keys at 2 l and its values at 2 l + 1. With prefix_projection the embedding goes through trans.0, tanh and trans.2 first.
Here: a table for each attention core (P, 2 * N_kv * D), columns [key | value], for ptuning2; a projection is replaced by its result.
Source: PrefixEncoder and get_prompt of modeling_chatglm.py in the folders of ChatGLM2 and ChatGLM3.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from petrun.checkpoint.delta import PREFIX_ENCODER, Delta
from petrun.checkpoint.delta_tensors import LazyTensors, arrays_digest
from petrun.checkpoint.virtual_names import prefix_tables
from petrun.errors import DeltaError
from petrun.graph.sites import Sites
from petrun.tensors import Array

ALGO = "ptuning2"
_EMBEDDING = "embedding.weight"
_PROJECTION = ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")


def chatglm_tokens(delta: Delta) -> int:
    """Return how many virtual tokens the file holds."""
    shape = _shapes(delta).get(_EMBEDDING, ())
    return shape[0] if len(shape) == 2 else 0


def from_chatglm(delta: Delta, sites: Sites | None) -> Delta:
    """Convert the file to a ptuning2 delta without projection. Raises DeltaError: a tensor that is missing, of another shape or unknown,
    a base with other layers or heads, NaN or infinity.
    """
    names, found = prefix_tables(str(delta.path), sites), _shapes(delta)
    assert sites is not None
    width = 2 * sites.kv_heads * sites.head_dim
    total = width * len(names)
    projected = any(name in found for name in _PROJECTION)
    wanted = {_EMBEDDING, *(_PROJECTION if projected else ())}
    problems = [f"{PREFIX_ENCODER}{name} is missing" for name in sorted(wanted - set(found))]
    problems += [f"{PREFIX_ENCODER}{name} belongs to nothing" for name in sorted(set(found) - wanted)]
    if not problems:
        hidden = found[_PROJECTION[0]][0] if projected else 0
        shapes: dict[str, tuple[int, ...]] = {_EMBEDDING: (chatglm_tokens(delta), total)}
        if projected:
            shapes |= dict(zip(_PROJECTION, ((hidden, total), (hidden,), (total, hidden), (total,)), strict=True))
        because = f"this base has {len(names)} layers of {sites.kv_heads} key/value heads of width {sites.head_dim}"
        problems = [
            f"{PREFIX_ENCODER}{name} is {list(found[name])}, must be {list(shape)}: {because}"
            for name, shape in shapes.items()
            if found[name] != shape
        ]
    if problems:
        raise DeltaError(
            "\n  ".join([f"{delta.path}: this prefix does not fit:", *problems]),
            hint="Check that --base is the model it was trained on, and that the file is complete.",
        )
    config = {"tokens": chatglm_tokens(delta), "projection": False}
    columns = {name: (layer * width, (layer + 1) * width) for layer, name in enumerate(names)}
    if not projected:
        assert isinstance(delta.tensors, LazyTensors)
        whole = dict.fromkeys(names, PREFIX_ENCODER + _EMBEDDING)
        tensors = delta.tensors.renamed(whole, set(), set(), columns)
        return replace(delta, tensors=tensors, algo=ALGO, config=config, digest=tensors.checked_digest())
    result = _projected(delta)
    tables = {name: np.ascontiguousarray(result[:, start:end]) for name, (start, end) in columns.items()}
    return replace(delta, tensors=tables, algo=ALGO, config=config, digest=arrays_digest(tables))


def _projected(delta: Delta) -> Array:
    """Compute tanh(E W_0^T + b_0) W_2^T + b_2, (P, 2 * L * N_kv * D) float32."""
    embedding, w0, b0, w2, b2 = (delta.tensors[PREFIX_ENCODER + name] for name in (_EMBEDDING, *_PROJECTION))
    result: Array = np.tanh(embedding @ w0.T + b0) @ w2.T + b2
    return result


def _shapes(delta: Delta) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(PREFIX_ENCODER): shape for name, shape in delta.shapes.items()}
