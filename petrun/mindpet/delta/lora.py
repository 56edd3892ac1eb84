"""MindPet's import path of its LoRA layer."""

from petrun.delta.lora.dense import LoRADense

__all__ = ["LoRADense"]
