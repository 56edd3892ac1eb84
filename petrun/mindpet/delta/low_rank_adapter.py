"""MindPet's import path of its low-rank adapters."""

from petrun.delta.low_rank_adapter import LowRankAdapterDense, LowRankAdapterLayer, LowRankLinear

__all__ = ["LowRankAdapterDense", "LowRankAdapterLayer", "LowRankLinear"]
