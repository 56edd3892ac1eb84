"""MindPet's constants, as far as code written for its delta and freeze interfaces imports them."""

from __future__ import annotations

import os
import stat

DEFAULT_FLAGS = os.O_RDWR | os.O_CREAT
DEFAULT_MODES = stat.S_IWUSR | stat.S_IRUSR
DELTA_LIST = ["lora", "prefixtuning", "adapter", "low_rank_adapter", "bitfit", "ptuning2"]
"""The modes of `freeze_delta`."""
