"""A decoder without rotary positions, which GPT-2, OPT and BLOOM share: the embedding, the layers, the head, and generation with a cache.

B batch, T tokens, E embedding width, H hidden, S cache slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops

from petrun.errors import ModelError
from petrun.graph.sites import Sites
from petrun.models.base import FamilyConfig, StoredName
from petrun.models.classes import LastToken
from petrun.models.decoder_layer import DecoderLayer
from petrun.models.decoding import CachedNet, CausalMask, cached_mask, prompt_layout, tokens_at, virtual_positions
from petrun.models.parts import Embedding, cell_paths, dense
from petrun.typing import Cell, DType, Tensor


@dataclass(frozen=True, kw_only=True)
class DecoderSizes:
    """What a decoder is made of besides its layers and norms."""

    vocab: int
    hidden: int
    kv_heads: int
    tied: bool
    embedding: int | None = None
    """E, where two linear layers lead from it to H and back."""
    positions: int | None = None
    """Tokens of the longest row, of a model with a table of positions."""
    positions_field: str = ""
    """Name of `positions` in config.json."""
    unused_positions: int = 0
    """Rows at the begin of that table that no token takes."""
    classes: int | None = None
    """Of a net that classifies rows; None: it continues them."""
    pad_token: int = -1
    """As FamilyConfig's."""


class AddPositions(nn.Cell):
    """x + positions, both (B, T, H). A cell, as each operator of a pipeline needs a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.add = ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch."""
        self.add.shard(((dp, 1, 1), (dp, 1, 1)))

    def construct(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.add(x, positions)


class RowsOfPositions(nn.Cell):
    """position_ids (B, T) int32 -> their rows in a table that begins with `unused` others. A cell, as each operator of a pipeline needs a
    stage."""

    def __init__(self, unused: int) -> None:
        super().__init__()
        self.unused, self.add = unused, ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch."""
        self.add.shard(((dp, 1), ()))

    def construct(self, position_ids: Tensor) -> Tensor:
        return self.add(position_ids, self.unused) if self.unused else position_ids


class Decoder(CachedNet):
    """Inputs: input_ids, segment_ids (0 = padding), position_ids, each (B, T) int32. Returns: logits (B, T, V) float32; (B, C) of a net
    that classifies rows."""

    def __init__(
        self,
        sizes: DecoderSizes,
        dtype: DType,
        *,
        layers: Sequence[DecoderLayer],
        embed_norm: Cell | None = None,
        dropout: Cell | None = None,
        norm: Cell | None = None,
    ) -> None:
        """`embed_norm` and `dropout` take the embedded tokens, `norm` the last layer's result."""
        super().__init__()
        self.kv_heads, self.longest, self.positions_field = sizes.kv_heads, sizes.positions, sizes.positions_field
        self.dtype, self.head_dim = dtype, layers[0].attn.head_dim
        width = sizes.embedding or sizes.hidden
        self.has_positions, self.projects = sizes.positions is not None, width != sizes.hidden
        self.norms_embedding, self.drops, self.norms = embed_norm is not None, dropout is not None, norm is not None
        # Set by graph.virtual_tokens where a delta has virtual tokens.
        self.prefix_tokens, self.prompt_tokens = 0, 0
        self.embed = Embedding(sizes.vocab, width, dtype)
        if self.projects:
            self.project_in = dense(width, sizes.hidden, dtype, bias=False)
        if sizes.positions is not None:
            self.positions = Embedding(sizes.positions + sizes.unused_positions, sizes.hidden, dtype)
            self.rows_of_positions = RowsOfPositions(sizes.unused_positions)
            self.add_positions = AddPositions()
        if embed_norm is not None:
            self.embed_norm = embed_norm
        if dropout is not None:
            self.dropout = dropout
        self.masks = nn.CellList([CausalMask()])
        self.layers = nn.CellList(layers)
        if norm is not None:
            self.norm = norm
        if self.projects:
            self.project_out = dense(sizes.hidden, width, dtype, bias=False)
        self.classifies = sizes.classes is not None
        if sizes.classes is not None:
            self.last = LastToken(sizes.pad_token)
            self.score = dense(width, sizes.classes, ms.float32, bias=False)
        else:
            self.head = dense(width, sizes.vocab, dtype, bias=False)
        if sizes.classes is None and sizes.tied:
            self.head.weight = self.embed.weight

    def open_stages(self, count: int) -> list[Cell]:
        """Have what the layers share made on each of `count` stages. Returns the cells that make it."""
        self.masks.extend([CausalMask() for _ in range(count - len(self.masks))])
        return list(self.masks)

    def placed(self, x: Tensor, position_ids: Tensor) -> Tensor:
        """Embedded tokens, (B, T, E), at their positions: what the first layer reads, (B, T, H)."""
        if self.projects:
            x = self.project_in(x)
        if self.has_positions:
            x = self.add_positions(x, self.positions(self.rows_of_positions(position_ids)))
        if self.norms_embedding:
            x = self.embed_norm(x)
        return self.dropout(x) if self.drops else x

    def enter(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Embed the row, with the prompt before it: (B, P + T, H)."""
        x = self.embed(input_ids)
        if self.prompt_tokens > 0:
            x = ops.concat((self.embed.prompt(x.shape[0], x.dtype), x), 1)
        return self.placed(x, virtual_positions(position_ids, self.prefix_tokens, self.prompt_tokens))

    def states(self, x: Tensor) -> Tensor:
        """What the head reads of the last layer's result."""
        if self.norms:
            x = self.norm(x)
        return self.project_out(x) if self.projects else x

    def logits(self, x: Tensor) -> Tensor:
        return ops.cast(self.head(self.states(x)), ms.float32)

    def construct(self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, part: int = 0) -> Tensor:
        """`part`: number of the batch's part that a pipeline sees; it changes nothing, but see train.pipelined."""
        x = self.enter(input_ids, position_ids)
        made: tuple[Tensor, ...] = ()
        for mask in self.masks:
            made = (*made, mask(segment_ids, position_ids, 0, self.prefix_tokens, self.prompt_tokens, part))
        for i, layer in enumerate(self.layers):
            x = layer(x, made[i * len(self.masks) // len(self.layers)], part)
        x = x[:, self.prompt_tokens :] if self.prompt_tokens > 0 else x
        if self.classifies:
            return self.score(self.last(self.states(x), input_ids, segment_ids))
        return self.logits(x)

    def check_slots(self, tokens: int) -> None:
        """Raises ModelError where the model has no positions for a row of so many tokens."""
        tokens += self.prefix_tokens + self.prompt_tokens
        if self.longest is not None and tokens > self.longest:
            raise ModelError(
                f"prompt and new tokens need {tokens} positions, the model has {self.positions_field} = {self.longest}",
                hint="Shorten the prompt, or generate fewer tokens.",
            )

    def prefill(
        self, input_ids: Tensor, lengths: Tensor, rows: Tensor, caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """See decoding.PrefillStep."""
        segment_ids, position_ids = prompt_layout(input_ids, lengths)
        x = self.enter(input_ids, position_ids)
        mask = self.masks[0](segment_ids, position_ids, 0, self.prefix_tokens, self.prompt_tokens)
        start = ops.zeros_like(rows)
        new: tuple[Tensor, ...] = ()
        for i, layer in enumerate(self.layers):
            x, k, v = layer.prefill(x, mask, caches[2 * i : 2 * i + 2], rows, start)
            new = (*new, k, v)
        return (self.logits(tokens_at(x, lengths + (self.prompt_tokens - 1))), *new)

    def decode(self, input_ids: Tensor, columns: Tensor, caches: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """See decoding.DecodeStep."""
        virtual = self.prefix_tokens + self.prompt_tokens
        x = self.placed(self.embed(input_ids), ops.reshape(columns + virtual, (-1, 1)))
        mask = cached_mask(columns, caches[0].shape[2] - self.prompt_tokens, 0, virtual)
        rows, columns = ops.arange(columns.shape[0], dtype=ms.int32), columns + self.prompt_tokens
        new: tuple[Tensor, ...] = ()
        for i, layer in enumerate(self.layers):
            x, k, v = layer.decode(x, mask, caches[2 * i : 2 * i + 2], rows, columns)
            new = (*new, k, v)
        return (self.logits(x[:, 0]), *new)


SPLITS = {
    "embed": "vocabulary",
    "project_in": "whole",
    "positions": "whole",
    "rows_of_positions": "tokens",
    "add_positions": "tokens",
    "embed_norm": "tokens",
    "dropout": "tokens",
    "masks.*": "tokens",
    "layers.*": "tokens",
    **dict.fromkeys((f"layers.*.{part}_{cell}" for part in ("attn", "mlp") for cell in ("norm", "dropout")), "tokens"),
    **dict.fromkeys((f"layers.*.attn.{role}" for role in ("q", "k", "v", "qkv")), "column"),
    **dict.fromkeys((f"layers.*.attn.{cell}" for cell in ("split", "core", "merge")), "heads"),
    "layers.*.attn.o": "row",
    "layers.*.mlp.up": "column",
    "layers.*.mlp.act": "wide",
    "layers.*.mlp.down": "row",
    "norm": "tokens",
    "project_out": "whole",
    "head": "column",
}
"""How a decoder's cells are sharded over ranks: see Sites.splits."""


def decoder_sites(
    config: FamilyConfig, names: Mapping[str, StoredName], linears: Iterable[str], default_roles: tuple[str, ...]
) -> Sites:
    """Describe where deltas attach to a decoder, and how its cells are sharded.

    `names`: of all its parameters; `linears`: paths in a layer of those that a delta may be for; `default_roles`: their last parts, of
    those that it is for where nothing is said.
    """
    tables = tuple(table for table in ("embed", "positions") if f"{table}.weight" in names)
    return Sites(
        linears={ours.rpartition(".")[2]: f"layers.*.{ours}" for ours in linears},
        default_roles=default_roles,
        tables=tables,
        embedding="embed",
        head="head",
        cores="layers.*.attn.core",
        positions="positions" if "positions" in tables else "",
        sublayers=("layers.*.attn.o", "layers.*.mlp.down"),
        blocks="layers.*",
        splits=SPLITS,
        hf_paths={**cell_paths(names), "head": "lm_head"},
        hidden=config.hidden,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.hidden // config.heads,
        layers=config.layers,
    )
