"""AdaLoRA: the settings and the record in method.py, its cell in dense.py, the allocation of ranks in budget.py."""

from petrun.delta.adalora.dense import ADALORA_A as ADALORA_A
from petrun.delta.adalora.dense import ADALORA_B as ADALORA_B
from petrun.delta.adalora.dense import ADALORA_E as ADALORA_E
from petrun.delta.adalora.dense import ADALORA_KEEP as ADALORA_KEEP
from petrun.delta.adalora.method import METHOD as METHOD
from petrun.delta.adalora.method import AdaLoraConfig as AdaLoraConfig
from petrun.delta.adalora.method import merge as merge
