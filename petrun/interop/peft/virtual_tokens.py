"""Read and write the parts that peft adapters of virtual tokens share: PREFIX_TUNING (prefix.py), PROMPT_TUNING and P_TUNING (prompt.py).

In the file (peft 0.21): `prompt_embeddings`, the encoder's result, never the encoder: (P, 2 * L * N_kv * D) for a prefix, which
peft views as (P, 2 * L, N_kv, D) with layer l's keys at 2 l and its values at 2 l + 1; (P, H) for a prompt. Heads are stored beside it as
`base_model.<module>.weight`. Here: a table for each attention core (P, 2 * N_kv * D), columns [key | value], for ptuning2; one
table (P, H) for prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from petrun.checkpoint.delta import ADAPTER_CONFIG
from petrun.errors import DeltaError
from petrun.interop.peft.config import Fields
from petrun.interop.peft.reading import Reading
from petrun.interop.peft.writing import ExportRequest, collect, common_fields, refuse_lone_biases, write_folder
from petrun.tensors import Array, TensorEntry
from petrun.typing import JsonObject

TABLE = "prompt_embeddings"
_BEFORE_HEADS = "base_model."
_ONE_NET = {1: 1}
_READ = (
    "task_type",
    "modules_to_save",
    "num_virtual_tokens",
    "num_transformer_submodules",
    "num_layers",
    "num_attention_heads",
    "token_dim",
)
# Settings of the encoder; only its result is in the file.
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


def read_virtual_tokens(reading: Reading, width: int, because: str, halves: Mapping[int, int] = _ONE_NET) -> int:
    """Check config and table, and read the heads. Returns the number of virtual tokens, which are the first rows of the table.

    `halves`: num_transformer_submodules that are read -> as many rows the table has for each virtual token. Of an encoder-decoder peft
    takes 2 where there is none.
    """
    delta = reading.delta
    fields = Fields(delta.config)
    fields.refuse_others(_READ, _HARMLESS)
    fields.check_task()
    tokens = fields.count("num_virtual_tokens", 0)
    stated = fields.raw.get("num_transformer_submodules")
    submodules = max(halves) if stated is None else stated
    if submodules not in halves:
        fields.problems.append(
            f"num_transformer_submodules: {submodules!r} is not supported for this base; supported: {', '.join(map(str, halves))}"
        )
    saved = fields.targets()
    fields.raise_problems(
        str(delta.path / ADAPTER_CONFIG),
        "petrun reads prefix tuning, prompt tuning and P-tuning of encoders and decoders.",
    )
    for stored in delta.tensors:
        name = stored.removeprefix(_BEFORE_HEADS)
        if name != stored:
            reading.full_tensor(stored, name)
        elif stored != TABLE:
            reading.problems.append(f"{stored}: is neither {TABLE} nor below {_BEFORE_HEADS}")
    shape = delta.shapes.get(TABLE)
    if shape is None:
        reading.problems.append(f"{TABLE} is missing")
    elif shape != (rows := tokens * halves.get(submodules, 1), width):
        reading.problems.append(
            f"{TABLE} is {list(shape)}, must be {[rows, width]}: num_virtual_tokens is {tokens}, and {because}"
        )
    reading.check_complete(saved, {}, "")
    reading.raise_problems()
    return tokens


def write_virtual_tokens(
    request: ExportRequest,
    kind: str,
    tables: tuple[str, ...],
    width: int,
    load: Callable[[], Array],
    fields: JsonObject,
) -> None:
    """Write the folder of an adapter of virtual tokens: `load` returns the table (P, width); heads come from the delta.

    Raises DeltaError for a delta that lacks one of `tables` or whose task is unknown, and OutputError.
    """
    delta = request.delta
    lacking = [name for name in tables if name not in delta.tensors]
    if lacking:
        raise DeltaError(
            f"{delta.path}: lacks {lacking[0]}: peft's form holds what the virtual tokens are, not the network that gives them",
            hint="Export it together with its base: petrun.commands.export computes them.",
        )
    heads = {name: delta.tensors[name] for name in delta.tensors if name not in tables}
    export = collect(replace(delta, tensors=heads), request.names, {}, prefix=_BEFORE_HEADS)
    refuse_lone_biases(delta, export, kind)
    common = common_fields(kind, request, export.heads)
    if common["task_type"] is None:
        raise DeltaError(
            f"{delta.path}: peft puts virtual tokens only into a model of a known task",
            hint="Say which: task 'classify' or 'tokens' (with a trained classifier), 'lm' or 'instruct'.",
        )
    tokens = delta.shapes[tables[0]][0]
    config = {
        **common,
        "num_virtual_tokens": tokens,
        "num_transformer_submodules": 1,
        "num_layers": request.sites.layers if request.sites else None,
        "modules_to_save": sorted(export.heads) or None,
        **fields,
    }
    write_folder(request.out, config, [TensorEntry(TABLE, (tokens, width), "float32", load), *export.entries])
