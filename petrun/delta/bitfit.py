"""BitFit: of the base, only the biases train.

    y = x W^T + b,  LN(x) * g + b:  every b, nothing else

Source: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
arXiv 2106.10199, section 3. The shifts of LayerNorms are biases (MindSpore calls them beta); RMSNorm has none. It changes only
values, so it joins any other method, without training that method's biases: it is attached first.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from pydantic import Field

from petrun.delta.forms import NotStored
from petrun.delta.method import Method, MethodConfig, Names, same_values
from petrun.errors import TargetError, perhaps
from petrun.graph.sites import Sites
from petrun.typing import Cell

# `bias`, `beta`, and an LSTM's `bias_ih_l0`.
_BIAS = re.compile(r"(?:.*_)?bias(?:_.*)?|beta")


class BitfitConfig(MethodConfig):
    """Settings of BitFit."""

    bias_include: Names | None = Field(
        None, description="globs over names of parameters: biases to train; default: every one"
    )
    bias_exclude: Names = Field((), description="globs over names of parameters: biases that stay as they are")


def biases(net: Cell) -> tuple[str, ...]:
    """Return the names of the net's bias vectors, shifts of norms included; not tables that are called bias (of relative positions)."""
    return tuple(
        p.name
        for p in net.get_parameters()
        if _BIAS.fullmatch(p.name.rpartition(".")[2]) and p.ndim == 1 and "Float" in str(p.dtype)
    )


def attach(net: Cell, config: BitfitConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Own every bias of the net that is included and not excluded. Raises TargetError."""
    found = biases(net)
    if not found:
        raise TargetError(
            "the model has no bias that bitfit could train",
            hint="Linear layers with has_bias and LayerNorms have them (BERT and GPT-2 throughout, Qwen2 in q, k and v); "
            "Llama's and Mistral's layers have none, and an RMSNorm has no shift. lora or ia3 fit such a model.",
        )
    wanted = ("*",) if config.bias_include is None else config.bias_include
    idle = [
        f"delta.{key}: {pattern} matches no bias. {perhaps(pattern, found)}".rstrip()
        for key, patterns in (("bias_include", wanted), ("bias_exclude", config.bias_exclude))
        for pattern in patterns
        if not _hit(pattern, found)
    ]
    if idle:
        raise TargetError("\n".join(idle), hint="Patterns are globs over whole names, such as '*.norm*.bias'.")
    chosen = {name for pattern in wanted for name in _hit(pattern, found)}
    dropped = {name for pattern in config.bias_exclude for name in _hit(pattern, found)}
    kept = tuple(name for name in found if name in chosen and name not in dropped)
    if not kept:
        raise TargetError("delta.bias_exclude takes away every bias that delta.bias_include names")
    return kept


def _hit(pattern: str, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


METHOD = Method(
    name="bitfit",
    config=BitfitConfig,
    default_lr=1e-3,
    attach=attach,
    trains="some",
    merge=same_values,
    peft=NotStored("peft has no adapter of biases alone; beside LoRA its adapters hold them"),
    mindpet="bitfit",
    owning=False,
)
