"""MindPet's helpers for code that runs on several versions of MindSpore."""

from __future__ import annotations

from mindspore import nn

from petrun.mindpet.layers.activation import _activation, get_activation

__all__ = ["_activation", "get_activation", "get_dropout"]


def get_dropout(dropout_prob: float) -> nn.Cell:
    """nn.Dropout that drops a share `dropout_prob`. petrun's own cells use petrun.kernels.Dropout, whose masks can be repeated."""
    return nn.Dropout(p=dropout_prob)
