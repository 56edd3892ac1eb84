"""Compute virtual tokens as plain tables: the results of the trained encoders of prefix tuning and P-tuning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from mindspore import Tensor

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_method import method_of
from petrun.delta import find_method, parts_of
from petrun.delta.compose import JOIN
from petrun.graph.virtual_tokens import computed_tokens
from petrun.interop.convert import trained_classes
from petrun.models.base import Family
from petrun.parallel.context import eager


def with_tables(delta: Delta, kind: Family, parsed: Any) -> Delta:
    """Replace a delta's encoder of virtual tokens by the encoder's result; any other delta is returned unchanged.

    The encoders are the cells that train them, in a net without weights. Raises DeltaError.
    """
    method, config = method_of(delta.algo, delta.config, delta.path)
    name = method.used_as(config)
    if name is None:
        return delta
    sites = kind.sites(parsed)
    net = kind.build(parsed, num_labels=trained_classes(delta))
    owned = set(method.attach(net, config, sites, 0))
    for parameter in net.get_parameters():
        if parameter.name in owned:
            parameter.set_data(Tensor(np.ascontiguousarray(delta.tensors[parameter.name])))
    net.set_train(False)
    with eager():
        computed = computed_tokens(net)
    table = find_method(name).table
    tables = {f"{path}.{table}": values for path, values in computed.items()}
    kept = {stored: delta.tensors[stored] for stored in delta.tensors if stored not in owned}
    joined = [part.name for part in parts_of(delta.algo) if not part.owning]
    settings = {"tokens": method.tokens(config)}
    return replace(delta, algo=JOIN.join((name, *joined)), config=settings, tensors={**tables, **kept}, digest="")
