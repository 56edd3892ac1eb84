"""Extract a LoRA from two models: for every linear layer, the low-rank product nearest to what the tuning changed.

W_tuned - W_base ~ B A;   parameters other than linear weights are kept as full tensors where they differ
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from petrun.algebra.low_rank import Keep, Product, distance, factored
from petrun.algebra.plain_lora import LayerUpdate, lora_settings, lora_tensors
from petrun.algebra.sums import Fidelity, NewDelta
from petrun.checkpoint.base_arrays import BaseArrays
from petrun.errors import DeltaError
from petrun.tensors import Array

Progress = Callable[[int, int], None]


def extracted(
    base: BaseArrays,
    tuned: BaseArrays,
    names: Iterable[str],
    paths: Iterable[str],
    keep: Keep,
    *,
    keep_rest: bool = True,
    progress: Progress = lambda done, total: None,
) -> NewDelta:
    """Extract the LoRA, with one layer in memory at a time.

    names: parameters of the model. paths: its linear layers that may become products.

    keep_rest: keep what differs elsewhere (biases, norms, embeddings, heads) from the tuned model; False: leave it out, and note that.
    Raises DeltaError: shapes that differ, NaN or infinity, or two models that are the same.
    """
    found: dict[str, LayerUpdate] = {}
    fidelity: list[Fidelity] = []
    rest: dict[str, Array] = {}
    linear, every = {f"{path}.weight" for path in paths}, list(names)
    for done, name in enumerate(every):
        progress(done, len(every))
        if name not in tuned or not tuned.is_float(name):
            continue
        values = _finite(name, tuned)
        if name not in base:
            rest[name] = values
            continue
        if base.shape(name) != tuned.shape(name):
            raise DeltaError(
                f"{name} is {list(base.shape(name))} in the base and {list(tuned.shape(name))} in the tuned model",
                hint="Only models of one shape have a difference.",
            )
        change = values - _finite(name, base)
        if not change.any():
            continue
        if name in linear:
            path = name.removesuffix(".weight")
            found[path], report = _layer(path, change, keep)
            fidelity.append(report)
        else:
            rest[name] = values
    progress(len(every), len(every))
    if not found:
        where = f" outside of its linear layers ({len(rest)} tensors)" if rest else " at all"
        raise DeltaError(
            f"{tuned.reader.path} differs from {base.reader.path} not in one of the layers asked for"
            + (f", only{where}" if rest else ""),
            hint="Check --base, --tuned and --target.",
        )
    algo, config = lora_settings(found, (), ())
    return NewDelta(
        {**lora_tensors(found), **(rest if keep_rest else {})}, algo, config, tuple(fidelity), _notes(rest, keep_rest)
    )


def _notes(rest: Mapping[str, Array], keep_rest: bool) -> tuple[str, ...]:
    if not rest:
        return ()
    named = ", ".join(list(rest)[:6]) + (", ..." if len(rest) > 6 else "")
    return (f"{len(rest)} tensors {'are kept whole' if keep_rest else 'differ and are left out'}: {named}",)


def _layer(path: str, change: Array, keep: Keep) -> tuple[LayerUpdate, Fidelity]:
    near = factored(change, keep)
    product = Product(b=near.b.astype(np.float32), a=near.a.astype(np.float32))
    norm = float(np.sqrt(np.square(change, dtype=np.float64).sum()))
    return LayerUpdate(product, 1.0), Fidelity(path=path, rank=product.rank, norm=norm, error=distance(change, product))


def _finite(name: str, arrays: BaseArrays) -> Array:
    values = arrays[name]
    if not np.isfinite(values).all():
        raise DeltaError(f"{arrays.reader.path}: {name} holds NaN or infinity", hint="Use another copy of the model.")
    return values
