"""Write a LoRA on a U-Net as one file that diffusers, or tools that follow kohya's scripts, load.

    diffusers   unet.LAYER.lora_A.weight, unet.LAYER.lora_B.weight, with the scale inside B: without an alpha diffusers takes it as 1
    kohya       lora_unet_LAYER.lora_down.weight, .lora_up.weight and .alpha, LAYER with _ for each dot; scale = alpha / rank

Layers have diffusers' names in both. Source: diffusers' loaders/lora_pipeline.py and loaders/lora_conversion_utils.py, 0.42.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from petrun.algebra.plain_lora import LayerUpdate, layers, require_products
from petrun.checkpoint.delta import Delta
from petrun.delta.lora import LORA_A, LORA_B
from petrun.errors import DeltaError
from petrun.models import unet
from petrun.tensors import Array, array_entries, write_safetensors


def _diffusers(path: str, layer: LayerUpdate) -> dict[str, Array]:
    update = layer.update
    return {f"unet.{path}.lora_A.weight": update.a, f"unet.{path}.lora_B.weight": update.b}


def _kohya(path: str, layer: LayerUpdate) -> dict[str, Array]:
    name, product = f"lora_unet_{path.replace('.', '_')}", layer.product
    return {
        f"{name}.lora_down.weight": product.a,
        f"{name}.lora_up.weight": product.b,
        f"{name}.alpha": np.array(layer.scale * product.rank),
    }


FORMS: Mapping[str, Callable[[str, LayerUpdate], dict[str, Array]]] = {"diffusers": _diffusers, "kohya": _kohya}


def write_unet_lora(delta: Delta, out: Path, form: str) -> int:
    """Write the LoRA in one of FORMS, float32. Returns how many layers it has.

    Raises DeltaError for a delta on another net, for one that is no sum of products, and for tensors beside the products; OutputError.
    """
    family = delta.manifest.family if delta.manifest is not None else ""
    if family != unet.FAMILY.name:
        raise DeltaError(
            f"{delta.path}: is a delta on a {family or 'model of another tool'}, and {form} files hold those of U-Nets",
            hint="Other forms: --to petrun, peft or mindpet.",
        )
    require_products(delta)
    found = layers(delta)
    beside = [
        n for n in delta.tensors if n.rpartition(".")[2] not in (LORA_A, LORA_B) or n.rpartition(".")[0] not in found
    ]
    if beside:
        raise DeltaError(
            f"{delta.path}: holds {beside[0]}, which {form} files have no place for",
            hint="LoRA's variants have a plain form: --as lora.",
        )
    tensors: dict[str, Array] = {}
    for path, layer in found.items():
        tensors |= {name: np.asarray(value, np.float32) for name, value in FORMS[form](path, layer).items()}
    write_safetensors(out, array_entries(tensors), {"format": "pt"})
    return len(found)
