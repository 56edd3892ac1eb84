"""LoRA and its variants (rsLoRA, DoRA, PiSSA, LoRA+): the settings and the record in method.py, one cell a file."""

from petrun.delta.lora.dense import LORA_A as LORA_A
from petrun.delta.lora.dense import LORA_B as LORA_B
from petrun.delta.lora.dense import LORA_BIAS as LORA_BIAS
from petrun.delta.lora.dense import LoRADense as LoRADense
from petrun.delta.lora.dora import LORA_M as LORA_M
from petrun.delta.lora.method import METHOD as METHOD
from petrun.delta.lora.method import LoraConfig as LoraConfig
from petrun.delta.lora.method import attach as attach
from petrun.delta.lora.method import merge as merge
from petrun.delta.lora.pissa import LORA_A0 as LORA_A0
from petrun.delta.lora.pissa import LORA_B0 as LORA_B0
