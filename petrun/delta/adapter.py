"""Adapters: a small bottleneck after a frozen linear layer.

    h = act(x W^T + b);   y = h + f(h W_down^T + b_down) W_up^T + b_up

Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", arXiv 1902.00751, section 2.1 and figure 2: after the attention
output and after the feed-forward output, before the residual connection.

The cells keep MindPet's names, signatures and parameter names; `compute_dtype` is float32 by default. There both weights start at
Normal(0.01), which is near the identity; `--algo adapter` starts at the identity itself, with W_up = 0.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from pydantic import Field, field_validator

from petrun.delta.dense import (
    Activation,
    CastDense,
    Initial,
    Strategy,
    TargetConfig,
    adopt,
    arguments_like,
    drawn,
    positive_int,
    residual_strategy,
    sublayer_paths,
    two_networks,
)
from petrun.delta.forms import NotStored
from petrun.delta.method import Method
from petrun.graph.sites import Sites
from petrun.graph.surgery import swap
from petrun.kernels.named_activations import non_linearity_of, rows_of, shard_activation, usable_activation
from petrun.typing import Cell, DType

_DOWN = "mindpet_delta_adapter_down_sampler"
_ACT = "mindpet_delta_adapter_non_linear"
_UP = "mindpet_delta_adapter_up_sampler"


class AdapterConfig(TargetConfig):
    """Settings of adapters. They follow the attention output and the feed-forward output, or the layers that `target` names."""

    bottleneck: int = Field(64, ge=1, description="width of the bottleneck")
    activation: str = Field("gelu", description="between the two projections")

    _known = field_validator("activation")(usable_activation)


class AdapterLayer(nn.Cell):
    """x + f(x W_down^T + b_down) W_up^T + b_up, MindPet's signature.

    Args:
        hidden_size: H. bottleneck_size: width of the bottleneck. non_linearity: one of MindPet's 25 names of activations.
        param_init_type: dtype of the parameters. compute_dtype: dtype of the two products.

    Inputs: x (..., H), any float dtype. Returns (..., H) in the dtype of x.
    Owns: mindpet_delta_adapter_block.mindpet_delta_adapter_{down,up}_sampler.{weight,bias}; weights (bottleneck, H) and
    (H, bottleneck), Normal(0.01) at first, biases 0.
    Raises: TypeError or ValueError for an argument of the wrong type or range.
    """

    def __init__(
        self,
        hidden_size: int,
        bottleneck_size: int = 64,
        non_linearity: str = "gelu",
        param_init_type: DType = ms.float32,
        compute_dtype: DType = ms.float32,
    ) -> None:
        super().__init__()
        positive_int("AdapterLayer", "hidden_size", hidden_size)
        self.bottleneck_size = positive_int("AdapterLayer", "bottleneck_size", bottleneck_size)
        self.non_linearity_name = non_linearity
        middle = non_linearity_of("AdapterLayer", non_linearity)
        types = {"dtype": param_init_type, "compute_dtype": compute_dtype}
        self.mindpet_delta_adapter_block = nn.SequentialCell(
            OrderedDict(
                {
                    _DOWN: CastDense(hidden_size, bottleneck_size, **types),
                    _ACT: middle,
                    _UP: CastDense(bottleneck_size, hidden_size, **types),
                }
            )
        )
        self.residual_add = ops.Add()
        self.reshape = ops.Reshape()

    @property
    def middle(self) -> Cell:
        """Return the non-linearity."""
        return getattr(self.mindpet_delta_adapter_block, _ACT)

    def construct(self, x: Tensor) -> Tensor:
        shape = x.shape
        flat = self.reshape(x, (-1, shape[-1]))
        return self.reshape(self.residual_add(flat, self.mindpet_delta_adapter_block(flat)), shape)

    def shard(
        self,
        strategy_matmul_down_sampler: Strategy = None,
        strategy_bias_down_sampler: Strategy = None,
        strategy_non_linearity: Strategy = None,
        strategy_matmul_up_sampler: Strategy = None,
        strategy_bias_up_sampler: Strategy = None,
        strategy_residual_add: Strategy = None,
        strategy_residential_add: Strategy = None,
    ) -> None:
        """Set how each operator is split over devices; see LoRADense.shard. Raises ValueError, TypeError."""
        block = self.mindpet_delta_adapter_block
        getattr(block, _DOWN).shard(strategy_matmul_down_sampler, strategy_bias_down_sampler)
        shard_activation("AdapterLayer", getattr(block, _ACT), strategy_non_linearity)
        getattr(block, _UP).shard(strategy_matmul_up_sampler, strategy_bias_up_sampler)
        self.residual_add.shard(residual_strategy("AdapterLayer", strategy_residual_add, strategy_residential_add))


class AdapterDense(CastDense):
    """AdapterLayer(act(x W^T + b)), MindPet's signature.

    Args:
        in_channels, out_channels, weight_init, bias_init, has_bias, activation: the base layer, as nn.Dense takes them.
        bottleneck_size, non_linearity, param_init_type: the adapter's. compute_dtype: dtype of the whole layer's arithmetic.

    Inputs: x (..., in_channels), any float dtype. Returns (..., out_channels) in the dtype of x.
    Owns: what AdapterLayer owns, under mindpet_delta_adapter.
    Raises: TypeError or ValueError for an argument of the wrong type or range, KeyError for an unknown activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        weight_init: Initial = "normal",
        bias_init: Initial = "zeros",
        has_bias: bool = True,
        activation: Activation = None,
        bottleneck_size: int = 64,
        non_linearity: str = "gelu",
        param_init_type: DType = ms.float32,
        compute_dtype: DType = ms.float32,
    ) -> None:
        super().__init__(
            in_channels, out_channels, weight_init, bias_init, has_bias, activation, compute_dtype=compute_dtype
        )
        self.mindpet_delta_adapter = AdapterLayer(
            out_channels, bottleneck_size, non_linearity, param_init_type, compute_dtype
        )
        self.bottleneck_size = bottleneck_size

    def construct(self, x: Tensor) -> Tensor:
        shape = self.shape_op(x)
        y = self.mindpet_delta_adapter(self.plain(self.reshape(x, (-1, shape[-1]))))
        return self.cast(self.reshape(y, (*shape[:-1], self.out_channels)), x.dtype)

    def shard(
        self,
        strategy_matmul_org: Strategy = None,
        strategy_bias_org: Strategy = None,
        strategy_activation_org: Strategy = None,
        strategy_matmul_down_sampler: Strategy = None,
        strategy_bias_down_sampler: Strategy = None,
        strategy_non_linearity: Strategy = None,
        strategy_matmul_up_sampler: Strategy = None,
        strategy_bias_up_sampler: Strategy = None,
        strategy_residual_add: Strategy = None,
        strategy_residential_add: Strategy = None,
    ) -> None:
        """Set how each operator is split over devices; see LoRADense.shard. Raises ValueError, TypeError."""
        super().shard(strategy_matmul_org, strategy_bias_org, strategy_activation_org)
        self.mindpet_delta_adapter.shard(
            strategy_matmul_down_sampler,
            strategy_bias_down_sampler,
            strategy_non_linearity,
            strategy_matmul_up_sampler,
            strategy_bias_up_sampler,
            residual_strategy("AdapterDense", strategy_residual_add, strategy_residential_add),
        )

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard the base's product as its role says; the adapter needs full rows and is not sharded."""
        outer, inner = (tp if how == "column" else 1), (tp if how == "row" else 1)
        whole = ((dp, 1), (1, 1))
        self.shard(
            strategy_matmul_org=((dp, inner), (outer, inner)),
            strategy_bias_org=((dp, outer), (outer,)),
            strategy_activation_org=((dp, outer),),
            strategy_matmul_down_sampler=whole,
            strategy_bias_down_sampler=((dp, 1), (1,)),
            strategy_non_linearity=rows_of(self.mindpet_delta_adapter.middle, dp),
            strategy_matmul_up_sampler=whole,
            strategy_bias_up_sampler=((dp, 1), (1,)),
            strategy_residual_add=((dp, 1), (dp, 1)),
        )


def wrap_dense(dense: Cell, path: str, config: AdapterConfig, seed: int) -> Cell:
    """Make an AdapterDense around an existing nn.Dense: its parameters are kept, W_down is drawn, W_up is zero."""
    cell = AdapterDense(
        dense.in_channels,
        dense.out_channels,
        bottleneck_size=config.bottleneck,
        non_linearity=config.activation,
        **arguments_like(dense),
    )
    width = dense.out_channels
    block = cell.mindpet_delta_adapter.mindpet_delta_adapter_block
    getattr(block, _DOWN).weight.set_data(Tensor(drawn(path, (config.bottleneck, width), width, seed)))
    getattr(block, _UP).weight.set_data(Tensor(np.zeros((width, config.bottleneck), np.float32)))
    return adopt(cell, dense)


def attach(net: Cell, config: AdapterConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Put an adapter after every targeted nn.Dense. Returns the names of the adapters' parameters. Raises TargetError."""
    paths = sublayer_paths(net, config, sites)

    def builder(path: str) -> Callable[[Cell], Cell]:
        return lambda dense: wrap_dense(dense, path, config, seed)

    return swap(net, {path: builder(path) for path in paths})


METHOD = Method(
    name="adapter",
    config=AdapterConfig,
    default_lr=1e-3,
    attach=attach,
    why_no_sum=two_networks,
    peft=NotStored("peft has no adapters behind a layer"),
    mindpet="adapter",
    layers=sublayer_paths,
)
