"""Write a LoRA as a GGUF adapter, which llama.cpp (`--lora`) and Ollama (`ADAPTER`) load beside the base's own GGUF file.

The file holds for each layer `NAME.lora_a` (R, in) and `NAME.lora_b` (out, R), float32, under its name in llama.cpp. That multiplies
their product by `adapter.lora.alpha` / R, with R as the tensor has it; by 1 where alpha is 0. In files of the architecture llama the rows
of q and k are in another order: the two rows of a head that are rotated together, i and i + D/2, stand side by side. So do those of
`lora_b`.

Source: llama.cpp's convert_lora_to_gguf.py, convert_hf_to_gguf.py (LlamaModel) and src/llama-adapter.h; the names are those of its package
gguf.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from petrun.errors import DeltaError, SetupError
from petrun.interop.peft.reading import PREFIX
from petrun.tensors import Array, TensorReader
from petrun.tensors.atomic import atomic_file
from petrun.typing import JsonObject

ARCHITECTURES: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
}
"""model_type of config.json -> architecture of llama.cpp, of those whose layers an adapter here may name."""
_PERMUTED = "llama"
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_MERGE = "Merge it instead: petrun merge; llama.cpp's convert_hf_to_gguf.py converts the merged folder."


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Factors of one layer: a (R, in), b (out, R), and what their product is multiplied by."""

    a: Array
    b: Array
    scale: float


def require_gguf(asked: str = "--to gguf") -> None:
    """Raise SetupError where the package gguf is not installed. `asked`: the option that needs it."""
    if importlib.util.find_spec("gguf") is None:
        raise SetupError(f"{asked}: the package gguf is not installed", hint="pip install 'petrun[gguf]'")


def write_gguf(adapter: TensorReader, fields: JsonObject, base: JsonObject, out: Path) -> int:
    """Write a LoRA adapter of peft as the file `out`. Returns how many layers it has.

    `adapter`: its tensors; `fields`: its adapter_config.json; `base`: the base's config.json.
    Raises DeltaError for what such a file cannot hold, OutputError.
    """
    import gguf

    model_type = str(base.get("model_type"))
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise DeltaError(
            f"{model_type}: no GGUF adapters are written for such a base", hint=f"Known: {known}. {_MERGE}"
        )
    architecture = ARCHITECTURES[model_type]
    layers = _layers(adapter, fields)
    names = _names(gguf, architecture, int(base["num_hidden_layers"]), list(layers), adapter.path)
    scales = {layer.scale * layer.a.shape[0] for layer in layers.values()}
    # One number for the whole file; where the layers' differ, each keeps its own in B.
    alpha = scales.pop() if len(scales) == 1 else 0.0
    with atomic_file(out) as (_, temporary):
        writer = gguf.GGUFWriter(temporary, architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for module, layer in layers.items():
            b = layer.b if alpha else layer.b * np.float32(layer.scale)
            if architecture == _PERMUTED and (heads := rotated_heads(module, base)):
                b = interleave_halves(b, heads)
            writer.add_tensor(f"{names[module]}.lora_a", np.ascontiguousarray(layer.a))
            writer.add_tensor(f"{names[module]}.lora_b", np.ascontiguousarray(b))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return len(layers)


def interleave_halves(values: Array, heads: int) -> Array:
    """Return (heads * D, ...) with the rows of each head in the order 0, D/2, 1, D/2 + 1, ..."""
    width = values.shape[0] // heads
    order = np.arange(width).reshape(2, width // 2).T.reshape(-1)
    rows = (np.arange(heads)[:, None] * width + order).reshape(-1)
    return values[rows]


def _layers(adapter: TensorReader, fields: JsonObject) -> dict[str, _Layer]:
    """Return module -> its factors. Raises DeltaError with all that is no LoRA of a linear layer."""
    problems = (
        [] if fields.get("peft_type") == "LORA" else [f"it is {fields.get('peft_type')}, and GGUF holds LoRA alone"]
    )
    problems += ["use_dora: llama.cpp knows no magnitudes"] if fields.get("use_dora") else []
    found: dict[str, dict[str, Array]] = {}
    for name in adapter.names:
        match = _FACTOR.fullmatch(name.removeprefix(PREFIX))
        if match is None:
            problems.append(f"{name}: is no factor of a linear layer")
        else:
            found.setdefault(match["module"], {})[match["factor"]] = adapter.read(name).astype(np.float32)
    if problems:
        more = f"\n  ... and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise DeltaError(
            "this delta has no form as a GGUF adapter:\n  " + "\n  ".join(problems[:8]) + more, hint=_MERGE
        )
    return {
        module: _Layer(a=pair["A"], b=pair["B"], scale=_scale(module, pair["A"].shape[0], fields))
        for module, pair in found.items()
    }


def _scale(module: str, rank: int, fields: JsonObject) -> float:
    """Return alpha / rank of a layer, or alpha / sqrt(rank) of rsLoRA. A key of alpha_pattern is matched as peft does: at a name's end."""
    patterns: Mapping[str, float] = fields.get("alpha_pattern") or {}
    own = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    alpha = float(next(own, fields["lora_alpha"]))
    return alpha / (rank**0.5 if fields.get("use_rslora") else rank)


def _names(gguf: Any, architecture: str, blocks: int, modules: list[str], place: Path) -> dict[str, str]:
    """Return module -> its name in llama.cpp. Raises DeltaError for those that have none there."""
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], blocks)
    found = {module: table.get_name(f"{module}.weight", try_suffixes=(".weight",)) for module in modules}
    unknown = [module for module, name in found.items() if name is None]
    if unknown:
        raise DeltaError(f"{place}: llama.cpp's {architecture} has no layer {', '.join(unknown[:4])}", hint=_MERGE)
    return {module: str(name) for module, name in found.items()}


def rotated_heads(module: str, base: JsonObject) -> int:
    """Return how many heads the rows of a layer are divided into, where it is a projection that is rotated; 0 for another layer.

    `module`: its Hugging Face name; `base`: config.json.
    """
    heads = int(base["num_attention_heads"])
    leaf = module.rpartition(".")[2]
    return {"q_proj": heads, "k_proj": int(base.get("num_key_value_heads") or heads)}.get(leaf, 0)
