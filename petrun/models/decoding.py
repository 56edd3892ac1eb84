"""Define the parts that decoders share: the causal mask, the cache of keys and values, and the two compiled steps of generation.

B rows of the cache, P prompts, T tokens of the longest prompt, S slots of a row's cache (T + tokens to generate), N_kv key/value heads,
D head width, V vocabulary. Slot j of a row belongs to its j-th token: prompts are padded on the right, and each row's generated tokens
follow its own prompt, whatever the lengths of the others.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.typing import Cell, DType


class CausalMask(nn.Cell):
    """Mask of the keys that a query attends to: the virtual tokens, itself and the earlier tokens of its segment.

    Distances between tokens are counted in columns, as in transformers; from a virtual token they are counted in positions, as there may
    be padding, or in packed rows another segment, between.
    Inputs: segment_ids, position_ids (B, T) int32; window, prefix, prompt: ints; a query attends to at most `window` keys (0: no limit).
    Returns: (B, 1, P_prompt + T, P_prefix + P_prompt + T) bool.
    """

    def __init__(self) -> None:
        super().__init__()
        self.distance, self.behind, self.close, self.near = ops.Sub(), ops.GreaterEqual(), ops.Less(), ops.LogicalAnd()
        self.of_query, self.of_key, self.same, self.both = (
            ops.ExpandDims(),
            ops.ExpandDims(),
            ops.Equal(),
            ops.LogicalAnd(),
        )
        self.head_axis = ops.ExpandDims()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch; tensors that all rows share are made on each rank."""
        shared, rows = (1, 1), (dp, 1, 1)
        self.distance.shard((shared, shared))
        self.behind.shard((shared, ()))
        self.close.shard((shared, ()))
        self.near.shard((shared, shared))
        self.of_query.shard(((dp, 1),))
        self.of_key.shard(((dp, 1),))
        self.same.shard((rows, rows))
        self.both.shard((rows, shared))
        self.head_axis.shard((rows,))

    def construct(
        self, segment_ids: Tensor, position_ids: Tensor, window: int, prefix: int = 0, prompt: int = 0, part: int = 0
    ) -> Tensor:
        """`part`: number of the batch's part that a pipeline sees; it changes nothing, but see train.pipelined."""
        rows, tokens = segment_ids.shape
        columns = ops.arange(tokens, dtype=ms.int32)
        distance = self.distance(ops.reshape(columns, (tokens, 1)), ops.reshape(columns, (1, tokens)))
        near = self.behind(distance, 0)
        if window > 0:
            near = self.near(near, self.close(distance, window))
        seen = self.both(self.same(self.of_query(segment_ids, 2), self.of_key(segment_ids, 1)), near)
        if prompt > 0:
            seen = ops.concat((ops.zeros((rows, prompt, tokens), ms.bool_), seen), 1)
        if prefix + prompt > 0:
            at = ops.expand_dims(virtual_positions(position_ids, prefix, prompt), 2)
            seen = ops.concat((_within(at - ops.arange(prefix + prompt, dtype=ms.int32), window), seen), 2)
        return self.head_axis(seen, 1)


def _within(distance: Tensor, window: int) -> Tensor:
    near = distance >= 0
    return ops.logical_and(near, distance < window) if window > 0 else near


def virtual_positions(position_ids: Tensor, prefix: int, prompt: int) -> Tensor:
    """Convert (B, T) positions of the tokens to (B, P_prompt + T) of prompt and tokens, after the prefix."""
    if prefix + prompt == 0:
        return position_ids
    shifted = position_ids + (prefix + prompt)
    if prompt == 0:
        return shifted
    first = ops.arange(prefix, prefix + prompt, dtype=position_ids.dtype)
    return ops.concat((ops.broadcast_to(first, (position_ids.shape[0], prompt)), shifted), 1)


def cached_mask(columns: Tensor, slots: int, window: int, virtual: int = 0) -> Tensor:
    """Make the mask (B, 1, 1, P + S) of each row's token at `columns` (B,) int32, after P = `virtual` tokens: it sees itself and the
    tokens before it, within its window. Distances as in CausalMask."""
    at = ops.reshape(columns + virtual, (-1, 1, 1, 1))
    return _within(at - ops.reshape(ops.arange(virtual + slots, dtype=ms.int32), (1, 1, 1, -1)), window)


def prompt_layout(input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return segment_ids and position_ids (P, T) int32 of prompts that are padded on the right."""
    columns = ops.broadcast_to(ops.reshape(ops.arange(input_ids.shape[1], dtype=ms.int32), (1, -1)), input_ids.shape)
    last = ops.reshape(lengths, (-1, 1)) - 1
    return ops.cast(columns <= last, ms.int32), ops.minimum(columns, last)


def tokens_at(x: Tensor, columns: Tensor) -> Tensor:
    """Return one token of each row: x (P, T, H), columns (P,) int32 -> (P, H)."""
    rows, tokens, width = x.shape
    places = ops.arange(rows, dtype=ms.int32) * tokens + columns
    return ops.gather(ops.reshape(x, (rows * tokens, width)), places, 0)


def zero_caches(count: int, shape: tuple[int, ...], dtype: DType) -> tuple[Tensor, ...]:
    """Return `count` empty caches of this shape."""
    return tuple(Tensor(np.zeros(shape, np.float32), dtype) for _ in range(count))


class CachedNet(nn.Cell):
    """A decoder whose layers keep keys and values for generation: what all of them have alike."""

    kv_heads: int
    head_dim: int
    prompt_tokens: int
    dtype: DType
    layers: nn.CellList

    def open_caches(self, rows: int, slots: int) -> tuple[Tensor, ...]:
        """Return empty caches of `rows` with room for `slots` tokens each, beside the prompt's."""
        shape = (rows, self.kv_heads, self.prompt_tokens + slots, self.head_dim)
        return zero_caches(2 * len(self.layers), shape, self.dtype)

    def writes_in_place(self) -> bool:
        """Tell whether a step changes the caches that it is given."""
        return bool(self.layers[0].write.in_place(self.dtype))


class PrefillStep(nn.Cell):
    """Run prompts and write their keys and values into the caches.

    The caller must keep a row's tokens within the model's positions.

    Inputs: input_ids (P, T) int32, padded on the right; lengths (P,) int32, tokens of each prompt; rows (P,) int32, the row of the caches
    that each takes; k and v (B, N_kv, S, D) of every layer in turn, S >= T.
    Returns: logits of each prompt's last token (P, V) float32, then the caches.
    """

    def __init__(self, net: Cell) -> None:
        # The net's parameters keep their names.
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, input_ids: Tensor, lengths: Tensor, rows: Tensor, *caches: Tensor) -> Tensor:
        return self.net.prefill(input_ids, lengths, rows, caches)


class DecodeStep(nn.Cell):
    """Run one token of every row against the caches.

    Inputs: input_ids (B, 1) int32; columns (B,) int32, the slot of each row that its token is written to, which is its position; the
    caches, as the step before returned them. Returns: logits (B, V) float32, then the caches.
    """

    def __init__(self, net: Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, input_ids: Tensor, columns: Tensor, *caches: Tensor) -> Tensor:
        return self.net.decode(input_ids, columns, caches)
