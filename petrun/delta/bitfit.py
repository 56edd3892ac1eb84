"""BitFit: of the base, only the biases train.

    y = x W^T + b,  LN(x) * g + b:  every b, nothing else

Source: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
arXiv 2106.10199, section 3. The shifts of LayerNorms are biases (MindSpore calls them beta); RMSNorm has none. It changes values
only, so it joins any other method, whose own biases it leaves alone: it is attached first.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field

from petrun.delta.base import Method, MethodConfig, Names, same_values
from petrun.errors import TargetError, perhaps
from petrun.graph.sites import Sites

# `bias`, `beta`, and an LSTM's `bias_ih_l0`.
_BIAS = re.compile(r"(?:.*_)?bias(?:_.*)?|beta")


class BitfitConfig(MethodConfig):
    """Settings of BitFit."""

    bias_exclude: Names = Field((), description="globs over names of parameters: biases that stay as they are")


def biases(net: Any) -> tuple[str, ...]:
    """Names of the net's bias vectors, the shifts of its norms among them; not tables that are called so (of relative positions)."""
    return tuple(
        p.name
        for p in net.get_parameters()
        if _BIAS.fullmatch(p.name.rpartition(".")[2]) and p.ndim == 1 and "Float" in str(p.dtype)
    )


def attach(net: Any, config: BitfitConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Own every bias of the net that is not excluded. Raises TargetError."""
    found = biases(net)
    if not found:
        raise TargetError(
            "the model has no bias that bitfit could train",
            hint="Linear layers with has_bias and LayerNorms have them (BERT and GPT-2 throughout, Qwen2 in q, k and v); "
            "Llama's and Mistral's layers have none, and an RMSNorm has no shift. lora or ia3 fit such a model.",
        )
    idle = [pattern for pattern in config.bias_exclude if not any(fnmatchcase(name, pattern) for name in found)]
    if idle:
        raise TargetError(
            "\n".join(f"delta.bias_exclude: {p} matches no bias. {perhaps(p, found)}".rstrip() for p in idle),
            hint="Patterns are globs over whole names, such as '*.norm*.bias'.",
        )
    kept = tuple(name for name in found if not any(fnmatchcase(name, pattern) for pattern in config.bias_exclude))
    if not kept:
        raise TargetError("delta.bias_exclude takes away every bias of the model")
    return kept


METHOD = Method(name="bitfit", config=BitfitConfig, default_lr=1e-3, attach=attach, fold=same_values, owning=False)
