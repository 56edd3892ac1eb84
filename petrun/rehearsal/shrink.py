"""Shrink a base to a size that a laptop computes: fewer layers, narrower ones, random weights; what a layout depends on stays.

Heads, key/value heads and activations stay. The vocabulary and the feed-forward width divide by tp where the base's own do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from petrun.errors import ConfigError
from petrun.models.base import LoadedModel
from petrun.parallel.layout import Layout
from petrun.tensors import Array, array_entries, write_safetensors
from petrun.typing import JsonObject

WEIGHTS_FILE = "model.safetensors"
TOKENS = 32
"""Tokens of the longest row, where --seq-len does not say."""
_VOCABULARY = 64
_MARK = "petrun-shrunk"
_FIELDS = {
    "hidden": ("hidden_size", "n_embd", "n_embed", "word_embed_proj_dim", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "wide": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff"),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "tokens": ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
}
_HEAD_WIDTHS = ("head_dim", "d_kv")
"""What is changed -> names of its fields in config.json; every one that is there changes."""
_DIVISORS = ("short_factor", "long_factor")


def parse_shrink(text: str) -> tuple[int, int]:
    """Parse LAYERSxHIDDEN. Raises ConfigError."""
    layers, _, hidden = text.lower().partition("x")
    if not (
        layers.isascii() and layers.isdigit() and hidden.isascii() and hidden.isdigit() and int(layers) * int(hidden)
    ):
        raise ConfigError(f"--shrink {text}: must be LAYERSxHIDDEN", hint="Example: --shrink 2x64")
    return int(layers), int(hidden)


def shrunk_config(config: JsonObject, layers: int, hidden: int, layout: Layout) -> JsonObject:
    """Return the config.json of the small base. Raises ConfigError where its sizes do not fit the heads or the stages."""
    heads = int(_field(config, "heads"))
    if hidden % (2 * heads):
        near = max(1, round(hidden / (2 * heads))) * 2 * heads
        raise ConfigError(
            f"--shrink {layers}x{hidden}: {heads} heads need a multiple of {2 * heads}",
            hint=f"--shrink {layers}x{near}",
        )
    if layers % layout.pp:
        raise ConfigError(
            f"--shrink {layers}x{hidden}: {layout.pp} stages do not divide {layers} layers",
            hint=f"--shrink {max(1, round(layers / layout.pp)) * layout.pp}x{hidden}",
        )
    old = int(_field(config, "hidden"))
    wide = config.get(_name(config, "wide") or "") or 4 * old
    sizes = {
        "hidden": hidden,
        "layers": layers,
        "wide": _divisible(round(int(wide) * hidden / old), int(wide), layout.tp),
        "vocab": _divisible(_VOCABULARY, int(_field(config, "vocab")), layout.tp),
    }
    found = {**config, **{name: sizes[key] for key in sizes for name in _FIELDS[key] if name in config}}
    found |= {name: hidden // heads for name in _HEAD_WIDTHS if name in config}
    found |= _shrunk_rotation(config, hidden // heads)
    if isinstance(config.get("layer_types"), list):
        found["layer_types"] = config["layer_types"][:layers]
    for name in _FIELDS["tokens"]:
        if isinstance(config.get(name), int):
            found[name] = config[name] % sizes["vocab"]
        elif isinstance(config.get(name), list):
            found[name] = [token % sizes["vocab"] for token in config[name]]
    return found


def _shrunk_rotation(config: JsonObject, head_dim: int) -> JsonObject:
    """Return rope_scaling and rope_parameters with LongRoPE's divisors for heads of this width, of which each divides one frequency."""
    found: JsonObject = {}
    for key in ("rope_scaling", "rope_parameters"):
        stored = config.get(key)
        if not isinstance(stored, Mapping):
            continue
        share = stored.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0
        count = int(head_dim * float(share)) // 2
        lists = {name: stored[name] for name in _DIVISORS if isinstance(stored.get(name), list) and stored[name]}
        spread = {name: [values[i * len(values) // count] for i in range(count)] for name, values in lists.items()}
        found[key] = {**stored, **spread}
    return found


def write_shrunk(folder: Path, config: JsonObject) -> None:
    """Write a base that has no weights yet, and is marked so that the run of one rank draws them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / _MARK).touch()


def is_shrunk(folder: Path) -> bool:
    """Return whether a folder is a base of `write_shrunk`."""
    return (folder / _MARK).is_file()


def write_random_weights(folder: Path, outline: LoadedModel, seed: int) -> None:
    """Draw the weights of a base: matrices that keep the size of what they multiply, norms near one, small biases."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for parameter in outline.net.get_parameters():
        stored = outline.names.get(parameter.name)
        if stored is None or stored.optional:
            continue
        shape = tuple(parameter.shape)
        value = random.normal(size=shape).astype(np.float32)
        if len(shape) > 1:
            value /= np.float32(np.sqrt(shape[-1]))
        else:
            value = np.float32(0.1) * value + np.float32(parameter.name.endswith("weight"))
        tensors[stored.name] = np.ascontiguousarray(value.T if stored.transpose else value)
    write_safetensors(folder / WEIGHTS_FILE, array_entries(tensors), {"format": "pt"})


def _name(config: Mapping[str, object], key: str) -> str | None:
    return next((name for name in _FIELDS[key] if name in config), None)


def _field(config: JsonObject, key: str) -> int:
    name = _name(config, key)
    if name is None:
        raise ConfigError(f"--shrink: the base's config.json has no {' or '.join(_FIELDS[key])}", hint="Leave it out.")
    return int(config[name])


def _divisible(size: int, like: int, tp: int) -> int:
    """Return a size near `size` that tp divides, or does not divide, as it does `like`."""
    whole = max(1, round(size / (4 * tp))) * 4 * tp
    return whole if like % tp == 0 else whole + 1
