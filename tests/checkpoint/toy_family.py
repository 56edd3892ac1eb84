"""A toy family: two layers, one stored (in, out) as Conv1D is, a task head, an output matrix tied to the embedding."""

import numpy as np

from petrun.delta.lora import LORA_A, LORA_B
from petrun.models.base import StoredName

HIDDEN, WIDE, VOCAB, CLASSES = 6, 8, 10, 3

NAMES = {
    "embed.weight": StoredName(name="model.embed.weight", also={"lm_head.weight": "head.weight"}),
    "layers.0.attn.q.weight": StoredName(name="model.h.0.attn.query.weight"),
    "layers.0.attn.q.bias": StoredName(name="model.h.0.attn.query.bias"),
    "layers.0.attn.v.weight": StoredName(name="model.h.0.attn.value.weight"),
    "layers.0.mlp.up.weight": StoredName(name="model.h.0.mlp.c_fc.weight", transpose=True),
    "layers.1.attn.q.weight": StoredName(name="model.h.1.attn.query.weight"),
    "layers.1.attn.q.bias": StoredName(name="model.h.1.attn.query.bias"),
    "layers.1.attn.v.weight": StoredName(name="model.h.1.attn.value.weight"),
    "layers.1.mlp.up.weight": StoredName(name="model.h.1.mlp.c_fc.weight", transpose=True),
    "norm.weight": StoredName(name="model.ln_f.weight"),
    "classifier.weight": StoredName(name="classifier.weight", optional=True),
    "classifier.bias": StoredName(name="classifier.bias", optional=True),
}
PREFIXES = ("", "model.")
IGNORED = ("model.position_ids", "cls.*")


def shape_of(parameter):
    """In the net's layout."""
    kind = parameter.rpartition(".")[0].rpartition(".")[2]
    if parameter.endswith("bias"):
        return (CLASSES,) if kind == "classifier" else (HIDDEN,)
    shapes = {"embed": (VOCAB, HIDDEN), "up": (WIDE, HIDDEN), "norm": (HIDDEN,), "classifier": (CLASSES, HIDDEN)}
    return shapes.get(kind, (HIDDEN, HIDDEN))


def stored_form(arrays):
    """In Hugging Face's names and layout."""
    return {
        NAMES[n].name: np.ascontiguousarray(a.T) if NAMES[n].transpose else np.ascontiguousarray(a)
        for n, a in arrays.items()
    }


def lora_arrays(paths, ranks=None, seed=3):
    rng = np.random.default_rng(seed)
    arrays = {}
    for path in paths:
        out, width = shape_of(f"{path}.weight")
        rank = (ranks or {}).get(path, 2)
        arrays[f"{path}.{LORA_A}"] = rng.standard_normal((rank, width)).astype(np.float32)
        arrays[f"{path}.{LORA_B}"] = rng.standard_normal((out, rank)).astype(np.float32)
    return arrays
