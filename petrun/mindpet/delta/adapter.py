"""MindPet's import path of its adapters."""

from petrun.delta.adapter import AdapterDense, AdapterLayer

__all__ = ["AdapterDense", "AdapterLayer"]
