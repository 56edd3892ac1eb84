"""Delta algorithms. A new one is one file and one line in METHODS."""

from petrun.delta import full, lora, prefix, prompt, ptuning, ptuning2
from petrun.delta.base import Method, MethodConfig
from petrun.delta.compose import compose, split_names
from petrun.delta.lora import LoRADense
from petrun.errors import ConfigError, did_you_mean

METHODS: dict[str, Method] = {
    "lora": lora.METHOD,
    "prefix": prefix.METHOD,
    "ptuning2": ptuning2.METHOD,
    "prompt": prompt.METHOD,
    "ptuning": ptuning.METHOD,
    "full": full.METHOD,
}


def find_method(algo: str) -> Method:
    """The method of a name, or of several joined by `+`. Raises ConfigError for an unknown name or parts that do not join."""
    names = split_names(algo)
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"unknown algorithm {name!r}. {did_you_mean(name, METHODS)}")
    try:
        return compose(tuple(METHODS[name] for name in names))
    except ValueError as error:
        raise ConfigError(f"algorithm {algo!r}: {error}", hint="bitfit and r_drop join with any other.") from error


__all__ = ["METHODS", "LoRADense", "Method", "MethodConfig", "find_method"]
