"""Read and write prefixes of peft: PREFIX_TUNING. virtual_tokens.py describes the file."""

from __future__ import annotations

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.virtual_names import prefix_tables
from petrun.errors import DeltaError
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
        {2: 1} if sites.encoder_decoder else {1: 1},
    )
    for layer, name in enumerate(names):
        reading.found[name] = TABLE
        # For an encoder-decoder peft writes the table twice, side by side, and gives each layer two pairs of keys and values in turn: the
        # first is for its self-attention, the second it drops. Layers so share what they attend to.
        first = 2 * layer * 2 % (2 * sites.layers) if sites.encoder_decoder else 2 * layer
        reading.columns[name] = (first * width, (first + 2) * width)
    return reading.finish({"tokens": tokens, "projection": False})


def write_prefix(request: ExportRequest) -> None:
    """Write a ptuning2 delta without projection as PREFIX_TUNING. Raises DeltaError and OutputError as write_peft says."""
    delta, sites = request.delta, request.sites
    if sites is not None and sites.encoder_decoder:
        raise DeltaError(
            f"{delta.path}: has a prefix of its own in every layer of the decoder, and peft's form of an encoder-decoder gives several "
            "layers the same one",
            hint="Keep the delta in petrun's own format.",
        )
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
