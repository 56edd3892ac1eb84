"""`petrun mindpet`: run a boot script as MindPet does, and print the result that it leaves."""

from __future__ import annotations

from petrun import console
from petrun.config.commands.mindpet import FinetuneSettings, ResultSettings, TaskSettings
from petrun.mindpet.task.start import result_text, start
from petrun.mindpet.utils.constants import ARG_NAMES
from petrun.typing import JsonObject


def finetune(settings: FinetuneSettings) -> None:
    """Run a script that tunes a model. Raises MindPetError."""
    _start("finetune", settings)


def result(task: str, settings: ResultSettings) -> None:
    """Run a script that evaluates or infers, and print its result as JSON. Raises MindPetError, also where there is no result."""
    answer = _start(task, settings)
    assert not isinstance(answer, bool)
    console.print(result_text(task, answer))


def _start(task: str, settings: TaskSettings) -> bool | JsonObject:
    values = {name: getattr(settings, name) for name in ARG_NAMES[task]}
    return start(task, values, source="CLI", ask=not settings.quiet)
