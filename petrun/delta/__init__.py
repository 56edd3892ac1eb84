"""Delta algorithms. A new one is one file and one line in METHODS."""

from petrun.delta import full, lora
from petrun.delta.base import Method, MethodConfig
from petrun.delta.lora import LoRADense

METHODS: dict[str, Method] = {
    "lora": lora.METHOD,
    "full": full.METHOD,
}

__all__ = ["METHODS", "LoRADense", "Method", "MethodConfig"]
