"""MindPet's constants, as far as code written for its interfaces and boot scripts import them."""

from __future__ import annotations

import os
import stat

DEFAULT_FLAGS = os.O_RDWR | os.O_CREAT
DEFAULT_MODES = stat.S_IWUSR | stat.S_IRUSR
DELTA_LIST = ["lora", "prefixtuning", "adapter", "low_rank_adapter", "bitfit", "ptuning2"]
"""The modes of `freeze_delta`."""

EVAL_RESULT_FILE_NAME = "eval_result.json"
INFER_RESULT_FILE_NAME = "infer_result.json"
ARG_NAMES = {
    "finetune": (
        "data_path", "output_path", "boot_file_path", "pretrained_model_path", "model_config_path", "timeout",
    ),
    "evaluate": ("data_path", "ckpt_path", "output_path", "boot_file_path", "model_config_path", "timeout"),
    "infer": ("data_path", "ckpt_path", "output_path", "boot_file_path", "model_config_path", "timeout"),
}  # fmt: skip
"""The arguments of each task, in the order of the SDK."""
MINDPET_DEFINED_PARAM_NAME = (
    "dp", "data_path", "op", "output_path", "bp", "boot_file_path", "mc", "model_config_path", "pm", "pretrained_model_path",
    "cp", "ckpt_path", "q", "quiet", "t", "timeout", "advanced_config",
)  # fmt: skip
"""Names that `params` of a model configuration must not set."""
