"""MindPet's import path of its R-Drop loss."""

from petrun.delta.r_drop import RDropLoss, rdrop_repeat

__all__ = ["RDropLoss", "rdrop_repeat"]
