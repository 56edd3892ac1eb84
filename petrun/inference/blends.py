"""Several deltas at once, each with a weight: how they are written, and their sum as one delta of a graph that holds several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from petrun.delta.forms import AdapterTensors, LowRankUpdate
from petrun.errors import ConfigError, did_you_mean

OFF = "off"
"""Name of the base alone, where the name of a delta is expected."""
Blend = Mapping[str, float]
"""Name of a delta -> its weight; {} is the base alone."""


def parse_blend(text: str, names: Sequence[str], where: str) -> Blend:
    """Read `a`, `a:0.8`, `a:0.8,b:0.4` or `off`. `names`: of the deltas; `where`: what gave the text. Raises ConfigError."""
    if text == OFF:
        return {}
    found: dict[str, float] = {}
    for part in (text,) if text in names else text.split(","):
        name, weight = (part.strip(), 1.0) if part.strip() in names else _weighed(part, where)
        if name not in names:
            raise ConfigError(
                f"{where} {text}: no delta is called {name!r}. {did_you_mean(name, names)}".rstrip(),
                hint=f"There are: {', '.join(names) or 'none'}; and {OFF} for the base alone.",
            )
        if name in found:
            raise ConfigError(f"{where} {text}: {name} stands there twice", hint="Give it one weight.")
        found[name] = weight
    return found


def _weighed(part: str, where: str) -> tuple[str, float]:
    name, colon, weight = part.strip().rpartition(":")
    if not colon:
        return weight, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where} {part}: {weight!r} is no weight", hint="Example: a:0.8, or a:0.8,b:0.4 for both.")
    return name.strip(), value


def spell_blend(blend: Blend) -> str:
    """Write a blend as parse_blend reads it, the same text for the same blend. A delta with the weight 1 is its name."""
    return ",".join(name if weight == 1 else f"{name}:{weight:g}" for name, weight in blend.items()) or OFF


def blended(blend: Blend, adapters: Mapping[str, AdapterTensors]) -> AdapterTensors:
    """Return the weighted sum of products: A one below the other, B side by side with the weight inside.

    Raises ConfigError for a delta with anything but products, which has no weight.
    """
    found = AdapterTensors()
    for name, weight in blend.items():
        own = adapters[name]
        if any((own.before, own.after, own.shift, own.heads, own.prefix)) or own.prompt is not None:
            raise ConfigError(
                f"{name} cannot be weighed or blended: what it adds is no sum of products", hint="Use it alone."
            )
        for path, product in own.products.items():
            a, b = product.a, product.b * np.float32(weight)
            if path in found.products:
                before = found.products[path]
                a, b = np.concatenate((before.a, a), 0), np.concatenate((before.b, b), 1)
            found.products[path] = LowRankUpdate(a=a, b=b)
    return found
