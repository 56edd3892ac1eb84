"""Read and write prefixes of peft: PREFIX_TUNING. virtual_tokens.py describes the file."""

from __future__ import annotations

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.virtual_names import prefix_tables
from petrun.interop.peft.reading import Reading
from petrun.interop.peft.virtual_tokens import TABLE, read_virtual_tokens, write_virtual_tokens
from petrun.interop.peft.writing import ExportRequest
from petrun.tensors import Array


def read_prefix(reading: Reading) -> Delta:
    """Convert PREFIX_TUNING, projected or not, to a delta of ptuning2 without projection. Raises DeltaError as from_peft says."""
    sites = reading.sites
    names = prefix_tables(str(reading.delta.path), sites)
    assert sites is not None
    width = sites.kv_heads * sites.head_dim
    tokens = read_virtual_tokens(
        reading,
        2 * sites.layers * width,
        f"this base has {sites.layers} layers of {sites.kv_heads} key/value heads of width {sites.head_dim}",
    )
    for layer, name in enumerate(names):
        reading.found[name] = TABLE
        reading.columns[name] = (2 * layer * width, 2 * (layer + 1) * width)
    return reading.finish({"tokens": tokens, "projection": False})


def write_prefix(request: ExportRequest) -> None:
    """Write a ptuning2 delta without projection as PREFIX_TUNING. Raises DeltaError and OutputError as write_peft says."""
    delta, sites = request.delta, request.sites
    tables = prefix_tables(str(delta.path), sites)
    assert sites is not None
    width = sites.kv_heads * sites.head_dim

    def table() -> Array:
        return np.concatenate([delta.tensors[name] for name in tables], axis=1)

    fields = {
        "token_dim": width,
        "num_attention_heads": sites.kv_heads,
        "encoder_hidden_size": width,
        "prefix_projection": False,
    }
    write_virtual_tokens(request, "PREFIX_TUNING", tables, 2 * width * sites.layers, table, fields)
