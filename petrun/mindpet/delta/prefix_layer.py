"""MindPet's PrefixLayer: learned keys and values of P virtual tokens for one attention layer.

    [K; V] = dropout(tanh(E W_1^T + b_1) W_k^T + b_k; the same with W_v, b_v)        E (P, embed_dim)

Source: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", arXiv 2101.00190, section 4.3.

MindPet computes both once, when the layer is built: they never train, and its value is its key. Here `construct` computes them, so
that gradients flow, and values have a projection of their own. Every example gets all P tokens: see `construct`.
"""

from __future__ import annotations

import sys

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from petrun.delta.dense import positive_int, rate
from petrun.errors import TrainingError
from petrun.kernels import Dropout
from petrun.kernels.named_activations import Tanh


@ops.constexpr(check=False)  # type: ignore[untyped-decorator]
def _not_in_init() -> None:
    """Raises TrainingError where the property that calls this is read in the __init__ of a cell.

    Values that are read there are constants, so no gradient reaches the prefix. In GRAPH mode this runs while a construct is compiled.
    """
    # The frame of this function, that of the decorator, then the property's, or the compiler's.
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] != "mindspore":
        code = frame.f_code
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if code.co_name == "__init__" and isinstance(owner, nn.Cell):
            raise TrainingError(
                f"PrefixLayer: keys and values that {type(owner).__name__}.__init__ reads are constants: the prefix would train nothing",
                hint="Read past_key_reparam and past_value_reparam in construct, or call the layer there: keys, values = self.prefix().",
            )
        frame = frame.f_back  # type: ignore[assignment]


class PrefixLayer(nn.Cell):
    """Keys and values of the virtual tokens of one layer, MindPet's signature.

    Args:
        prefix_token_num: P, a multiple of batch_size as MindPet wants it. batch_size: B. num_heads: N, divides hidden_dim.
        hidden_dim: H. embed_dim: width of the table. mid_dim: width of the hidden layer. dropout_rate: on keys and values.

    Inputs: batch_size, an int; B where it is left out. Returns: keys and values, each (batch_size, N, P, H / N) float32, to be
    put before those of every example along the tokens.
    Owns, under mindpet_delta_prefixtuning_: input_tokens (P,) int32 0..P-1, frozen, attribute `input_tokens`; wte.embedding_table
    (P, embed_dim); control_trans.{0,2}.{weight,bias}, the hidden layer and the keys' projection; value_trans.{weight,bias}.
    Raises: TypeError or ValueError for an argument of the wrong type or range.
    """

    def __init__(
        self,
        prefix_token_num: int,
        batch_size: int,
        num_heads: int,
        hidden_dim: int,
        embed_dim: int,
        mid_dim: int = 512,
        dropout_rate: float = 0.1,
    ) -> None:
        super().__init__()
        owner = "PrefixLayer"
        self.prefix_token_num = positive_int(owner, "prefix_token_num", prefix_token_num)
        self.batch_size = positive_int(owner, "batch_size", batch_size)
        self.num_heads = positive_int(owner, "num_heads", num_heads)
        self.hidden_dim = positive_int(owner, "hidden_dim", hidden_dim)
        self.embed_dim = positive_int(owner, "embed_dim", embed_dim)
        self.mid_dim = positive_int(owner, "mid_dim", mid_dim)
        self.dropout_rate = rate(owner, "dropout_rate", dropout_rate)
        if prefix_token_num % batch_size:
            raise ValueError(
                f"{owner}: prefix_token_num {prefix_token_num} must be a multiple of batch_size {batch_size}"
            )
        if hidden_dim % num_heads:
            raise ValueError(f"{owner}: hidden_dim {hidden_dim} must be a multiple of num_heads {num_heads}")
        self.input_tokens = Parameter(
            Tensor(np.arange(prefix_token_num, dtype=np.int32)),
            name="mindpet_delta_prefixtuning_input_tokens",
            requires_grad=False,
        )
        self.mindpet_delta_prefixtuning_wte = nn.Embedding(prefix_token_num, embed_dim)
        self.mindpet_delta_prefixtuning_control_trans = nn.SequentialCell(
            nn.Dense(embed_dim, mid_dim), Tanh(), nn.Dense(mid_dim, hidden_dim)
        )
        self.mindpet_delta_prefixtuning_value_trans = nn.Dense(mid_dim, hidden_dim)
        self.dropout = nn.CellList(
            [Dropout(dropout_rate, 0, f"prefixtuning.{part}", rows=False) for part in ("key", "value")]
        )

    def reparam(self) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (P, H), without dropout."""
        hidden, tanh, to_key = self.mindpet_delta_prefixtuning_control_trans
        middle = tanh(hidden(self.mindpet_delta_prefixtuning_wte(self.input_tokens)))
        return to_key(middle), self.mindpet_delta_prefixtuning_value_trans(middle)

    @property
    def past_key_reparam(self) -> Tensor:
        """Return the current keys (P, H), without dropout. Gradients flow through them where a `construct` reads them.

        Raises TrainingError where a cell's __init__ reads them, as MindPet's manual does.
        """
        _not_in_init()
        return self.reparam()[0]

    @property
    def past_value_reparam(self) -> Tensor:
        """Return the current values (P, H), as `past_key_reparam` does the keys."""
        _not_in_init()
        return self.reparam()[1]

    def heads(self, values: Tensor, batch_size: int) -> Tensor:
        """Reshape (P, H) to (batch_size, N, P, H / N), the same for every example."""
        split = ops.reshape(values, (self.prefix_token_num, self.num_heads, self.hidden_dim // self.num_heads))
        return ops.tile(ops.expand_dims(ops.transpose(split, (1, 0, 2)), 0), (batch_size, 1, 1, 1))

    def construct(self, batch_size: int | None = None) -> Tensor:
        rows = self.batch_size if batch_size is None else batch_size
        keys, values = self.reparam()
        return self.heads(self.dropout[0](keys), rows), self.heads(self.dropout[1](values), rows)
