"""`petrun mindpet finetune`, `evaluate` and `infer`: MindPet's options, by MindPet's names."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.options import option

_CONFIG = "YAML file: each line of `params` becomes --KEY VALUE of the script"


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What finetune, evaluate and infer share."""

    data_path: str | None = option("--data_path", "Folder of the data. Required.", short="-dp")
    output_path: str | None = option(
        "--output_path",
        "Folder in which the script gets one of its own, MINDPET_ and 32 digits. Required.",
        short="-op",
    )
    boot_file_path: str | None = option("--boot_file_path", "The boot script, a .py file. Required.", short="-bp")
    model_config_path: str | None = option("--model_config_path", f"{_CONFIG}.", short="-mc")
    timeout: str | None = option(
        "--timeout",
        "Time after which the script is ended: days, hours, minutes, such as 1d2h or 30m. Default: no limit.",
        short="-t",
    )
    quiet: bool = option(
        "--quiet",
        "Ask nothing: a path that other users can change is a warning, and a boot script that they can change an error.",
        default=False,
        short="-q",
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TaskSettings):
    """Of finetune."""

    pretrained_model_path: str | None = option(
        "--pretrained_model_path", "Folder or file of the pretrained model.", short="-pm"
    )
    model_config_path: str | None = option(
        "--model_config_path",
        f"{_CONFIG}; with `freeze` in it, the script gets its path as --advanced_config.",
        short="-mc",
    )


@dataclass(frozen=True, kw_only=True)
class ResultSettings(TaskSettings):
    """Of evaluate and infer."""

    ckpt_path: str | None = option("--ckpt_path", "Folder of the checkpoints. Required.", short="-cp")
