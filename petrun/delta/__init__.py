"""Delta algorithms. A new one is one file and one line in METHODS."""

from collections.abc import Callable

from petrun.delta import (
    adalora,
    adapter,
    bitfit,
    full,
    ia3,
    loha,
    lokr,
    lora,
    low_rank_adapter,
    miss,
    oft,
    prefix,
    prompt,
    ptuning,
    ptuning2,
    r_drop,
    rows,
    vera,
)
from petrun.delta.adapter import AdapterDense, AdapterLayer
from petrun.delta.compose import compose, split_names
from petrun.delta.lora import LoRADense
from petrun.delta.low_rank_adapter import LowRankAdapterDense, LowRankAdapterLayer, LowRankLinear
from petrun.delta.method import Method, MethodConfig
from petrun.delta.r_drop import RDropLoss, rdrop_repeat
from petrun.errors import ConfigError, did_you_mean
from petrun.typing import Cell

METHODS: dict[str, Method] = {
    "lora": lora.METHOD,
    "adalora": adalora.METHOD,
    "loha": loha.METHOD,
    "lokr": lokr.METHOD,
    "vera": vera.METHOD,
    "oft": oft.METHOD,
    "miss": miss.METHOD,
    "adapter": adapter.METHOD,
    "low_rank_adapter": low_rank_adapter.METHOD,
    "prefix": prefix.METHOD,
    "ptuning2": ptuning2.METHOD,
    "prompt": prompt.METHOD,
    "ptuning": ptuning.METHOD,
    "r_drop": r_drop.METHOD,
    "ia3": ia3.METHOD,
    "bitfit": bitfit.METHOD,
    "rows": rows.METHOD,
    "full": full.METHOD,
}


def parts_of(algo: str) -> tuple[Method, ...]:
    """Return the methods that a name joins by `+`, in its order. Raises ConfigError for an unknown name."""
    names = split_names(algo)
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"unknown algorithm {name!r}. {did_you_mean(name, METHODS)}")
    return tuple(METHODS[name] for name in names)


def find_method(algo: str) -> Method:
    """Return the method of a name, or of several joined by `+`. Raises ConfigError for an unknown name or parts that do not join."""
    try:
        return compose(parts_of(algo))
    except ValueError as error:
        joining = ", ".join(sorted(method.name for method in METHODS.values() if not method.owning))
        raise ConfigError(f"algorithm {algo!r}: {error}", hint=f"These join with any other: {joining}.") from error


def names_where(holds: Callable[[Method], bool]) -> str:
    """List the names of all methods for which `holds` is true, for a message."""
    return ", ".join(name for name, method in METHODS.items() if holds(method))


def method_of_tensor(name: str) -> Method | None:
    """Return the method whose tensors in a layer have names with this ending; None for parameters of the base and of other cells."""
    leaf = name.rpartition(".")[2]
    return next((method for method in METHODS.values() if leaf in method.tensors), None)


def __getattr__(name: str) -> type[Cell]:
    """Import MindPet's cells that no algorithm of petrun uses from petrun.mindpet, at their first use."""
    if name in ("PrefixEncoder", "PrefixLayer"):
        from petrun.mindpet import delta

        return getattr(delta, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "METHODS",
    "AdapterDense",
    "AdapterLayer",
    "LoRADense",
    "LowRankAdapterDense",
    "LowRankAdapterLayer",
    "LowRankLinear",
    "Method",
    "MethodConfig",
    "PrefixEncoder",
    "PrefixLayer",
    "RDropLoss",
    "find_method",
    "method_of_tensor",
    "names_where",
    "parts_of",
    "rdrop_repeat",
]
