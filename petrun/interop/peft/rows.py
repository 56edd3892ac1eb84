"""Read and write rows of token tables as peft's trainable tokens: alone (TRAINABLE_TOKENS), or beside LoRA (trainable_token_indices).

In the file (peft 0.21): `base_model.model.<module>.trainable_tokens_delta` (N, H), beside LoRA
`<module>.token_adapter.trainable_tokens_delta`: the values of the rows themselves, in the order of the config's ids. Of a tied base peft
computes the head with the embedding's rows; where it stores rows of the head as well, it does not read them.

tokens.py reads those of LoRA adapters into full matrices, as their ids may differ from layer to layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from petrun.checkpoint.delta import ADAPTER_CONFIG, Delta
from petrun.checkpoint.delta_tensors import Computed
from petrun.checkpoint.tied import owner
from petrun.delta.rows import ROWS, ids_of, spell_rows
from petrun.interop.peft.config import Fields
from petrun.interop.peft.reading import PREFIX, Reading
from petrun.interop.peft.writing import ExportRequest, common_fields, write_folder
from petrun.models.base import StoredName
from petrun.tensors import TensorEntry

_VALUES = "trainable_tokens_delta"
_STORED = re.compile(rf"(?P<module>.+)\.{_VALUES}(?:\.[^.]+)?")
_HINT = "petrun reads trainable tokens of the token embedding, and of the head."


def read_rows(reading: Reading) -> Delta:
    """Convert TRAINABLE_TOKENS to a delta of rows. Raises DeltaError as from_peft says."""
    delta = reading.delta
    ids = _token_indices(delta)
    table = f"{reading.sites.embedding}.weight" if reading.sites is not None else ""
    head = f"{reading.sites.head}.weight" if reading.sites is not None else ""
    order = np.argsort(ids)
    held: set[str] = set()
    for stored in delta.tensors:
        match = _STORED.fullmatch(stored.removeprefix(PREFIX))
        parameter = reading.resolve(f"{match['module']}.weight") if match else None
        if parameter not in (table, head):
            reading.unknown(stored, stored) if parameter is None else reading.problems.append(
                f"{stored}: is neither the token embedding nor the head"
            )
        elif len(delta.shapes[stored]) != 2 or delta.shapes[stored][0] != len(ids):
            reading.problems.append(
                f"{stored}: is {list(delta.shapes[stored])}, and token_indices names {len(ids)} rows"
            )
        else:
            held.add(parameter)
            if reading.shared.get(parameter) is None:
                reading.made[f"{parameter.removesuffix('.weight')}.{ROWS}"] = delta.tensors[stored][order]
    if table not in held and not reading.problems:
        reading.problems.append(f"holds no {_VALUES} of the token embedding")
    apart = head in held or head in reading.shared
    return reading.finish({"rows": spell_rows(int(i) for i in ids), "rows_of_head": apart})


def _token_indices(delta: Delta) -> list[int]:
    fields = Fields(delta.config)
    ids = delta.config.get("token_indices")
    known = isinstance(ids, list) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids)
    if not known or not ids or len(set(ids)) < len(ids):
        fields.problems.append(f"token_indices: must be different token ids, not {ids!r}")
    fields.refuse_others({"token_indices", "target_modules"}, {"init_weights", "task_type"})
    fields.check_task()
    fields.raise_problems(str(delta.path / ADAPTER_CONFIG), _HINT)
    return list(ids) if isinstance(ids, list) else []


@dataclass
class TokenRows:
    """The rows of a delta in peft's form."""

    ids: list[int] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)
    """Module -> name of its values in the delta."""

    def entries(self, delta: Delta, suffix: str) -> list[TensorEntry]:
        """Return the tensors of the file. `suffix`: what stands between module and the values' name."""
        return [
            TensorEntry(
                f"{PREFIX}{module}.{suffix}{_VALUES}",
                delta.shapes[name],
                "float32",
                partial(delta.tensors.__getitem__, name),
            )
            for module, name in self.modules.items()
        ]


def split_rows(delta: Delta, names: Mapping[str, StoredName]) -> tuple[Delta, TokenRows]:
    """Return (the delta without its rows, the rows)."""
    held = [name for name in delta.tensors if name.rpartition(".")[2] == ROWS]
    if not held:
        return delta, TokenRows()
    rest = {
        name: (delta.shapes[name], partial(delta.tensors.__getitem__, name))
        for name in delta.tensors
        if name not in held
    }
    modules = {names[owner(name)].name.removesuffix(".weight"): name for name in held}
    rows = TokenRows([int(i) for i in ids_of(delta.config["rows"])], modules)
    return replace(delta, tensors=Computed(rest)), rows


def write_rows(request: ExportRequest) -> None:
    """Write a delta of rows alone as TRAINABLE_TOKENS. Raises OutputError."""
    _, rows = split_rows(request.delta, request.names)
    config = {
        **common_fields("TRAINABLE_TOKENS", request, set()),
        "token_indices": rows.ids,
        "target_modules": [module.rpartition(".")[2] for module in rows.modules],
        "init_weights": True,
    }
    write_folder(request.out, config, rows.entries(request.delta, ""))
