"""Graph-safe maths for both targets: fused C++ operators on the CPU, primitives with kernels on Ascend.

Cells are built in a model's `__init__` and called in `construct`, in GRAPH and PyNative mode. Which
implementation a cell uses is chosen when it is built: by the device target, and on the CPU by whether the C++ operators could be compiled
(`status()`).
"""

from petrun.kernels.activations import Gelu, GeluTanh, SiluMul, SoftCap, Tanh
from petrun.kernels.attention import Attention, BiasedAttention
from petrun.kernels.cache import WriteCache
from petrun.kernels.counter_noise import CounterNormal, CounterUniform
from petrun.kernels.dropout import Dropout, batch_offset, count_on_stage, step_counter
from petrun.kernels.grouped import GroupedProduct
from petrun.kernels.heads import MergeHeads, SplitGroupedQkv, SplitHeads, SplitHeadsQkv, SplitQkv
from petrun.kernels.likeliest import Likeliest
from petrun.kernels.loss import SquaredError, TokenCrossEntropy, is_supervised
from petrun.kernels.native import Status, primitives_only, set_threads, status, use_cache
from petrun.kernels.norms import LayerNorm, OffsetRmsNorm, RmsNorm, ScaleColumns
from petrun.kernels.packed import NestedScales, PackedProduct, PackedValues
from petrun.kernels.rope import Rope, apply_rope

__all__ = [
    "Attention",
    "BiasedAttention",
    "CounterNormal",
    "CounterUniform",
    "Dropout",
    "Gelu",
    "GeluTanh",
    "GroupedProduct",
    "LayerNorm",
    "Likeliest",
    "MergeHeads",
    "NestedScales",
    "OffsetRmsNorm",
    "PackedProduct",
    "PackedValues",
    "RmsNorm",
    "Rope",
    "ScaleColumns",
    "SiluMul",
    "SoftCap",
    "SplitGroupedQkv",
    "SplitHeads",
    "SplitHeadsQkv",
    "SplitQkv",
    "SquaredError",
    "Status",
    "Tanh",
    "TokenCrossEntropy",
    "WriteCache",
    "apply_rope",
    "batch_offset",
    "count_on_stage",
    "is_supervised",
    "primitives_only",
    "set_threads",
    "status",
    "step_counter",
    "use_cache",
]
