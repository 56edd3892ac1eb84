"""Define sites: where deltas may attach to a model of a family. A method never names a model, a family never names a method."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Sites:
    """Paths of cells in the net where deltas may attach; `*` stands for any run of characters (fnmatch).

    B batch, T tokens, H hidden, N heads, D head width, V vocabulary.
    """

    linears: dict[str, str] = field(default_factory=dict)
    """Role -> pattern of nn.Dense cells: {"q": "layers.*.attn.q", ...}. Embeddings and the head are not listed."""
    default_roles: tuple[str, ...] = ()
    """Roles that LoRA adapts when the user names none."""
    tables: tuple[str, ...] = ()
    """Paths of the embeddings, cells with `weight` (rows, H), `dtype`, `width` and `slice(start, rows)`, that LoRA can adapt."""
    embedding: str = ""
    """(B, T) ids -> (B, T, H)."""
    embedding_scale: float = 1.0
    """Factor between the embedding's rows and what stands beside a prompt."""
    head: str = ""
    """Decoders: (B, T, H) -> (B, T, V). Classifiers: (B, H) -> (B, C)."""
    cores: str = ""
    """Attention cores: q (B, N, T, D), k and v (B, N_kv, S, D), mask (B, 1, T, S) bool, True = visible -> (B, N, T, D)."""
    positions: str = ""
    """Decoders, pattern: positions (B, T) -> whatever the net makes of them, for every token that it computes."""
    prefix_positions: bool = True
    """Whether the tokens of a prefix take positions before those of the row."""
    mask_positions: bool = False
    """Decoders without such a cell: a position is what the mask says, the number of a key among those that its query sees."""
    window: int = 0
    """Keys that a query sees at most in a layer that limits them; 0: none does."""
    sublayers: tuple[str, ...] = ()
    """Patterns of cells (B, T, H) -> (B, T, H) that adapters follow: attention output and feed-forward output."""
    trained_heads: tuple[str, ...] = ()
    """Patterns of parameters that belong to the task, not to the base: trained and saved beside every delta."""
    blocks: str = ""
    """The layers, one cell each; here and below `*` stands for one part of a path."""
    splits: dict[str, str] = field(default_factory=dict)
    """Layout of the net's cells over ranks: pattern -> role, see petrun.parallel.plan; "" is the net itself."""
    hf_paths: dict[str, str] = field(default_factory=dict)
    """Path of a cell -> its path in Hugging Face's naming, so that users may name either."""
    encoder_decoder: bool = False
    """Whether a prompt stands before the rows of an encoder, and `cores` are those of the decoder that reads its result."""
    hidden: int = 0
    """Width of the embedded tokens, and so of a prompt."""
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    layers: int = 0


def fits(pattern: str, path: str) -> bool:
    """Return whether a pattern matches a path. `*` stands for one part of a path: a pattern for a layer does not match the layer's
    cells.
    """
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), path) is not None
