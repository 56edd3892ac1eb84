"""peft adapters of virtual tokens: PREFIX_TUNING, PROMPT_TUNING and P_TUNING.

In the file (peft 0.21): `prompt_embeddings`, what the encoder gives, never the encoder itself: (P, 2 * L * N_kv * D) for a prefix, which
peft views as (P, 2 * L, N_kv, D) with layer l's keys at 2 l and its values at 2 l + 1; (P, H) for a prompt. Heads stand beside it as
`base_model.<module>.weight`. Here: a table for each attention core (P, 2 * N_kv * D), columns [key | value], as ptuning2 has it; one
table (P, H), as prompt has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from petrun.checkpoint.delta import ADAPTER_CONFIG, Delta
from petrun.checkpoint.virtual_names import prefix_tables, prompt_table
from petrun.errors import DeltaError
from petrun.interop.peft.config import Fields
from petrun.interop.peft.reading import Reading
from petrun.interop.peft.writing import Order, collect, common_fields, refuse_lone_biases, write_folder
from petrun.tensors import Array, TensorEntry
from petrun.typing import JsonObject

TABLE = "prompt_embeddings"
_BEFORE_HEADS = "base_model."
_READ = (
    "task_type",
    "modules_to_save",
    "num_virtual_tokens",
    "num_transformer_submodules",
    "num_layers",
    "num_attention_heads",
    "token_dim",
)
# How the encoder was built and started; only its result is in the file.
_HARMLESS = (
    "prefix_projection",
    "init_weights",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_dropout",
    "encoder_reparameterization_type",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "prompt_tuning_init_state_dict_path",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
)


def read_prefix(reading: Reading) -> Delta:
    """PREFIX_TUNING, projected or not -> a delta of ptuning2 without projection. Raises DeltaError as from_peft says."""
    sites = reading.sites
    names = prefix_tables(str(reading.delta.path), sites)
    assert sites is not None
    width = sites.kv_heads * sites.head_dim
    tokens = _read_common(
        reading,
        2 * sites.layers * width,
        f"this base has {sites.layers} layers of {sites.kv_heads} key/value heads of width {sites.head_dim}",
    )
    for layer, name in enumerate(names):
        reading.found[name] = TABLE
        reading.columns[name] = (2 * layer * width, 2 * (layer + 1) * width)
    return reading.finish({"tokens": tokens, "projection": False})


def read_prompt(reading: Reading) -> Delta:
    """PROMPT_TUNING or P_TUNING -> a delta of prompt tuning. Raises DeltaError as from_peft says."""
    sites = reading.sites
    name = prompt_table(str(reading.delta.path), sites)
    assert sites is not None
    tokens = _read_common(reading, sites.hidden, f"this base's embeddings are {sites.hidden} wide")
    reading.found[name] = TABLE
    return reading.finish({"tokens": tokens})


def _read_common(reading: Reading, width: int, because: str) -> int:
    """Check config and table, take the heads. Returns the number of virtual tokens."""
    delta = reading.delta
    fields = Fields(delta.config)
    fields.refuse_others(_READ, _HARMLESS)
    fields.check_task()
    tokens = fields.count("num_virtual_tokens", 0)
    if fields.raw.get("num_transformer_submodules") not in (None, 1):
        fields.problems.append(
            f"num_transformer_submodules: {fields.raw['num_transformer_submodules']!r} is not supported "
            "(virtual tokens for both halves of an encoder-decoder)"
        )
    saved = fields.targets()
    fields.raise_problems(
        str(delta.path / ADAPTER_CONFIG),
        "petrun reads prefix tuning, prompt tuning and P-tuning of encoders and decoders.",
    )
    for stored in delta.tensors:
        name = stored.removeprefix(_BEFORE_HEADS)
        if name != stored:
            reading.whole(stored, name)
        elif stored != TABLE:
            reading.problems.append(f"{stored}: is neither {TABLE} nor below {_BEFORE_HEADS}")
    shape = delta.shapes.get(TABLE)
    if shape is None:
        reading.problems.append(f"{TABLE} is missing")
    elif shape != (tokens, width):
        reading.problems.append(
            f"{TABLE} is {list(shape)}, must be {[tokens, width]}: num_virtual_tokens is {tokens}, and {because}"
        )
    reading.check_complete(saved, {}, "")
    reading.raise_problems()
    return tokens


def write_prefix(order: Order) -> None:
    """A ptuning2 delta without projection as PREFIX_TUNING. Raises DeltaError and OutputError as write_peft says."""
    delta, sites = order.delta, order.sites
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
    _write(order, "PREFIX_TUNING", tables, 2 * width * sites.layers, table, fields)


def write_prompt(order: Order) -> None:
    """A prompt delta as PROMPT_TUNING. Raises DeltaError and OutputError as write_peft says."""
    delta, sites = order.delta, order.sites
    name = prompt_table(str(delta.path), sites)
    assert sites is not None
    fields = {"token_dim": sites.hidden, "num_attention_heads": sites.heads, "prompt_tuning_init": "RANDOM"}
    _write(order, "PROMPT_TUNING", (name,), sites.hidden, lambda: delta.tensors[name], fields)


def _write(
    order: Order, kind: str, tables: tuple[str, ...], width: int, load: Callable[[], Array], fields: JsonObject
) -> None:
    delta = order.delta
    lacking = [name for name in tables if name not in delta.tensors]
    if lacking:
        raise DeltaError(
            f"{delta.path}: lacks {lacking[0]}: peft's form holds what the virtual tokens are, not the network that gives them",
            hint="Export it together with its base: petrun.commands.export computes them.",
        )
    heads = {name: delta.tensors[name] for name in delta.tensors if name not in tables}
    export = collect(replace(delta, tensors=heads), order.names, {}, prefix=_BEFORE_HEADS)
    refuse_lone_biases(delta, export, kind)
    common = common_fields(kind, order.task, order.base, export.heads)
    if common["task_type"] is None:
        raise DeltaError(
            f"{delta.path}: peft puts virtual tokens only into a model of a known task",
            hint="Say which: task 'classify' (with a trained classifier), 'lm' or 'instruct'.",
        )
    tokens = delta.shapes[tables[0]][0]
    config = {
        **common,
        "num_virtual_tokens": tokens,
        "num_transformer_submodules": 1,
        "num_layers": order.sites.layers if order.sites else None,
        "modules_to_save": sorted(export.heads) or None,
        **fields,
    }
    write_folder(order.out, config, [TensorEntry(TABLE, (tokens, width), "float32", load), *export.entries])
