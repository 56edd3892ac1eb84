"""Define the parts that decoders share: the causal mask, the cache of keys and values, and the two compiled steps of generation.

B batch, T tokens of the prompt, S slots of the cache (T + tokens to generate), N_kv key/value heads, D head width, V vocabulary.
Slot j of a row's cache belongs to column j of its batch: prompts are padded on the left, so that generated tokens follow directly.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from petrun.typing import Cell, Tensor


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


def cached_mask(visible: Tensor, slot: Tensor, position_ids: Tensor, window: int, virtual: int = 0) -> Tensor:
    """Make the mask (B, 1, 1, P + S) of the token at `slot`, of position `position_ids` (B, 1), within its window. `visible` (B, S) bool:
    True where a slot holds a token of the row. Distances as in CausalMask."""
    if window > 0:
        visible = ops.logical_and(visible, ops.arange(visible.shape[1], dtype=ms.int32) > slot - window)
    if virtual > 0:
        distance = position_ids + virtual - ops.arange(virtual, dtype=ms.int32)
        visible = ops.concat((_within(distance, window), visible), 1)
    return ops.expand_dims(ops.expand_dims(visible, 1), 1)


def open_cache(x: Tensor, slots: int) -> Tensor:
    """Pad (B, N_kv, T, D) to (B, N_kv, S, D); the new slots are 0."""
    b, n, t, d = x.shape
    if slots == t:
        return x
    return ops.concat((x, ops.zeros((b, n, slots - t, d), x.dtype)), 2)


def cache_index(rows: int, slot: Tensor) -> Tensor:
    """Return the indices at which `write_cache` writes, (rows, 2) int32, made once a step. rows = B * N_kv; slot () int32."""
    row = ops.reshape(ops.arange(rows, dtype=ms.int32), (rows, 1))
    return ops.concat((row, ops.zeros_like(row) + slot), 1)


def write_cache(cache: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """Return the cache (B, N_kv, S, D) with x (B, N_kv, 1, D) in its slot."""
    b, n, s, d = cache.shape
    flat = ops.tensor_scatter_update(ops.reshape(cache, (b * n, s, d)), index, ops.reshape(x, (b * n, d)))
    return ops.reshape(flat, (b, n, s, d))


class PrefillStep(nn.Cell):
    """Run the prompts and open the caches.

    The caller must keep a row's tokens within the model's positions; slots may exceed them, as some are padding.

    Inputs: input_ids, segment_ids, position_ids (B, T) int32, padded on the left.
    Returns: logits of the last column (B, V) float32, then k and v (B, N_kv, S, D) of every layer in turn.
    """

    def __init__(self, net: Cell, slots: int) -> None:
        # The net's parameters keep their names.
        super().__init__(auto_prefix=False)
        self.net = net
        self.slots = slots

    def construct(self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.net.prefill(input_ids, segment_ids, position_ids, self.slots)


class DecodeStep(nn.Cell):
    """Run one token of every row against the caches.

    Inputs: input_ids, position_ids (B, 1) int32; slot () int32, the column the token is written to; visible (B, S) bool, True where
    a slot holds a token of the row, `slot` included; the caches, as the step before returned them.
    Returns: logits (B, V) float32, then the caches.
    """

    def __init__(self, net: Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(
        self, input_ids: Tensor, position_ids: Tensor, slot: Tensor, visible: Tensor, *caches: Tensor
    ) -> Tensor:
        return self.net.decode(input_ids, position_ids, slot, visible, caches)
