"""`petrun mindpet ...`: MindPet's command line. Also the program `mindpet`, so that scripts that call it run as they are."""

from __future__ import annotations

import sys
from typing import Any

import typer

from petrun.cli.command import Command
from petrun.config.commands.mindpet import FinetuneSettings, ResultSettings

app = typer.Typer(help="MindPet's command line: run a boot script as MindPet does.", no_args_is_help=True)


def finetune(settings: FinetuneSettings) -> None:
    """Run a boot script that tunes a model.

    The script gets --data_path, --output_path, --pretrained_model_path, --advanced_config, and the params of the model configuration.
    What it prints also goes to service.log below ~/.cache/Huawei/mxTuningKit/log.

        petrun mindpet finetune --data_path data --output_path out --boot_file_path tune.py --model_config_path params.yaml --timeout 2h
    """
    from petrun.commands import mindpet

    mindpet.finetune(settings)


def evaluate(settings: ResultSettings) -> None:
    """Run a boot script that scores a model, and print the eval_result.json that it writes into its --output_path.

    petrun mindpet evaluate --data_path data --ckpt_path out/ckpt --output_path scores --boot_file_path score.py
    """
    from petrun.commands import mindpet

    mindpet.result("evaluate", settings)


def infer(settings: ResultSettings) -> None:
    """Run a boot script that answers rows, and print the infer_result.json that it writes into its --output_path.

    petrun mindpet infer --data_path data --ckpt_path out/ckpt --output_path answers --boot_file_path answer.py
    """
    from petrun.commands import mindpet

    mindpet.result("infer", settings)


_FIRST = ("data_path", "output_path", "boot_file_path")
_LAST = ("model_config_path", "timeout", "quiet")
COMMANDS: tuple[Command[Any], ...] = (
    Command(
        name="finetune",
        settings=FinetuneSettings,
        run=finetune,
        options=(*_FIRST, "pretrained_model_path", *_LAST),
    ),
    Command(name="evaluate", settings=ResultSettings, run=evaluate, options=(*_FIRST, "ckpt_path", *_LAST)),
    Command(name="infer", settings=ResultSettings, run=infer, options=(*_FIRST, "ckpt_path", *_LAST)),
)
for command in COMMANDS:
    command.add_to(app)


def main() -> None:
    """Entry point of the program `mindpet`. Its exit codes are MindPet's: 0, and 1 for any error, also of the command line."""
    from petrun.cli.app import main as petrun

    sys.argv[1:1] = ["mindpet"]
    try:
        petrun()
    except SystemExit as end:
        if end.code == 2:
            sys.exit(1)
        raise
