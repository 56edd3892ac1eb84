"""Read and write prompts of peft: PROMPT_TUNING and P_TUNING. virtual_tokens.py describes the file."""

from __future__ import annotations

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.virtual_names import prompt_table
from petrun.interop.peft.reading import Reading
from petrun.interop.peft.virtual_tokens import TABLE, read_virtual_tokens, write_virtual_tokens
from petrun.interop.peft.writing import ExportRequest

_HALVES = {1: 1, 2: 2}
"""Of an encoder-decoder peft's table has rows for a decoder, too, which its forward pass never reads."""


def read_prompt(reading: Reading) -> Delta:
    """Convert PROMPT_TUNING or P_TUNING to a delta of prompt tuning. Raises DeltaError as from_peft says."""
    sites = reading.sites
    name = prompt_table(str(reading.delta.path), sites)
    assert sites is not None
    halves = _HALVES if sites.encoder_decoder else {1: 1}
    tokens = read_virtual_tokens(reading, sites.hidden, f"this base's embeddings are {sites.hidden} wide", halves)
    if len(reading.delta.tensors[TABLE]) == tokens:
        reading.found[name] = TABLE
    else:
        reading.made[name] = np.asarray(reading.delta.tensors[TABLE][:tokens], np.float32)
    return reading.finish({"tokens": tokens})


def write_prompt(request: ExportRequest) -> None:
    """Write a prompt delta as PROMPT_TUNING. Raises DeltaError and OutputError as write_peft says."""
    delta, sites = request.delta, request.sites
    name = prompt_table(str(delta.path), sites)
    assert sites is not None
    fields = {"token_dim": sites.hidden, "num_attention_heads": sites.heads, "prompt_tuning_init": "RANDOM"}
    write_virtual_tokens(request, "PROMPT_TUNING", (name,), sites.hidden, lambda: delta.tensors[name], fields)
