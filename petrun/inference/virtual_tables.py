"""Virtual tokens as plain tables: what the encoders of prefix tuning and P-tuning give once they are trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from mindspore import Tensor

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.virtual_names import PREFIX_TABLE, PROMPT_TABLE
from petrun.graph.virtual_tokens import computed_tokens
from petrun.inference.assembly import method_of
from petrun.interop.convert import trained_classes
from petrun.models.base import Family
from petrun.parallel.context import eager

# Algorithm -> the one of which it is a way to train: what its encoder gives is all that counts afterwards.
_FLAT = {"prefix": "ptuning2", "ptuning2": "ptuning2", "ptuning": "prompt"}


def with_tables(delta: Delta, kind: Family, parsed: Any) -> Delta:
    """The delta with what its encoder of virtual tokens gives in the encoder's place; any other delta as it is.

    The encoders are the cells that train them, in a net without weights. Raises DeltaError.
    """
    algo, plus, joined = delta.algo.partition("+")
    if algo not in _FLAT or (algo == "ptuning2" and not delta.config.get("projection")):
        return delta
    method, config = method_of(delta.algo, delta.config, delta.path)
    sites = kind.sites(parsed)
    net = kind.build(parsed, num_labels=trained_classes(delta))
    owned = set(method.attach(net, config, sites, 0))
    for parameter in net.get_parameters():
        if parameter.name in owned:
            parameter.set_data(Tensor(np.ascontiguousarray(delta.tensors[parameter.name])))
    net.set_train(False)
    with eager():
        computed = computed_tokens(net)
    leaf = PREFIX_TABLE if _FLAT[algo] == "ptuning2" else PROMPT_TABLE
    tables = {f"{path}.{leaf}": values for path, values in computed.items()}
    kept = {name: delta.tensors[name] for name in delta.tensors if name not in owned}
    settings = {"tokens": method.tokens(config)}
    return replace(delta, algo=_FLAT[algo] + plus + joined, config=settings, tensors={**tables, **kept}, digest="")
