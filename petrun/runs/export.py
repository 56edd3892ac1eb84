"""A delta as an adapter folder that peft loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from petrun.checkpoint.convert import to_house, trained_classes, write_peft
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.virtual_names import PREFIX_TABLE, PROMPT_TABLE
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError
from petrun.graph.virtual import computed_tokens
from petrun.models.base import Family
from petrun.models.factory import is_factory, read_family
from petrun.parallel.context import eager
from petrun.runs.assemble import base_path, hold_to_family, method_of, open_delta
from petrun.runs.stored_base import stored_base

# Algorithm -> the one of which it is a way to train: what its encoder gives is all that counts afterwards.
_FLAT = {"prefix": "ptuning2", "ptuning2": "ptuning2", "ptuning": "prompt"}


def run(
    *,
    base: str | None,
    delta: str,
    out: str,
    family: str | None = None,
    alpha: float | None = None,
    task: str | None = None,
) -> Path:
    """Write `delta` as a peft adapter folder `out`, which must not exist or be empty. Returns the folder.

    `base`: the model it was trained on, of which only config.json is read, but for adapters that keep or change a part of
    its weights; without it the embedded one. `alpha`: of a MindPet
    checkpoint. `task`: classify, lm or instruct, where the delta does not say it. Of encoders of virtual tokens the folder holds what
    they give: enough to use them, not to go on training them.
    Raises DeltaError where peft has no form for the delta, ConfigError for a model of one's own, OutputError.
    """
    refuse_factory(family)
    return write(open_delta(delta, alpha), base=base, out=out, family=family, alpha=alpha, task=task)


def refuse_factory(family: str | None) -> None:
    """Raises ConfigError for a model of one's own."""
    if is_factory(family):
        raise ConfigError(
            f"--model {family}: peft knows Hugging Face models, not one of your own",
            hint="Keep the delta in petrun's own format.",
        )


def write(
    given: Delta, *, base: str | None, out: str, family: str | None, alpha: float | None, task: str | None
) -> Path:
    """A delta as read, or made, as an adapter folder. As `run`."""
    refuse_factory(family)
    path = base_path(ModelConfig(base=base, family=family))
    assert path is not None
    raw, kind, parsed = read_family(path, family)
    hold_to_family(given, raw)
    names, sites = kind.names(parsed), kind.sites(parsed)
    fitted = to_house(given, names, kind.prefixes, alpha, sites, lambda name: stored_base(base, family).arrays()[name])
    info = fitted.manifest.task if fitted.manifest is not None else None
    folder = Path(out).expanduser()
    write_peft(
        with_tables(fitted, kind, parsed),
        names,
        folder,
        task=task or (info.name if info is not None else None),
        base=base,
        sites=sites,
    )
    return folder


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
