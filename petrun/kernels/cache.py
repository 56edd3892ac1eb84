"""Write keys and values into the cache of generation."""

from __future__ import annotations

import mindspore as ms
from mindspore import ops

from petrun.kernels import fused, native
from petrun.typing import Tensor


class WriteCache(fused.FusedCell):
    """Put keys and values of consecutive tokens into rows of the cache, each row's from a column of its own.

    Inputs: k, v (P, N_kv, T, D); the caches of k and v (B, N_kv, S, D); rows (P,) int32, the row of each in the caches; columns (P,)
    int32, where its first token goes. Returns: the caches, to be read in place of the inputs. `in_place`: the inputs themselves are
    written, and the results are the same tensors; else they are copies.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.write_cache, library)

    def in_place(self, dtype: object) -> bool:
        """Tell whether caches of this dtype are written in place."""
        return self.is_fused and dtype == ms.float32

    def construct(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.is_fused and k.dtype == ms.float32:
            done = self.fused(k, v, k_cache, v_cache, rows, columns)
            return ops.depend(k_cache, done), ops.depend(v_cache, done)
        index = self.places(rows, columns, k.shape)
        return ops.tensor_scatter_update(k_cache, index, k), ops.tensor_scatter_update(v_cache, index, v)

    def places(self, rows: Tensor, columns: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the place of every written vector: (P, N_kv, T, 3) int32."""
        p, n, t = shape[:3]
        row = ops.broadcast_to(ops.reshape(rows, (p, 1, 1)), (p, n, t))
        head = ops.broadcast_to(ops.reshape(ops.arange(n, dtype=ms.int32), (1, n, 1)), (p, n, t))
        token = ops.reshape(columns, (p, 1, 1)) + ops.reshape(ops.arange(t, dtype=ms.int32), (1, 1, t))
        return ops.stack((row, head, ops.broadcast_to(token, (p, n, t))), -1)
