"""MindPet's delta layers, by MindPet's names."""

from petrun.delta.adapter import AdapterDense, AdapterLayer
from petrun.delta.lora.dense import LoRADense
from petrun.delta.low_rank_adapter import LowRankAdapterDense, LowRankAdapterLayer, LowRankLinear
from petrun.delta.r_drop import RDropLoss, rdrop_repeat
from petrun.mindpet.delta.prefix_layer import PrefixLayer
from petrun.mindpet.delta.ptuning2 import PrefixEncoder

__all__ = [
    "AdapterDense",
    "AdapterLayer",
    "LoRADense",
    "LowRankAdapterDense",
    "LowRankAdapterLayer",
    "LowRankLinear",
    "PrefixEncoder",
    "PrefixLayer",
    "RDropLoss",
    "rdrop_repeat",
]
