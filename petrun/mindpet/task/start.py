"""finetune, evaluate and infer: check the arguments, run the boot script, read its result."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from petrun import console
from petrun.errors import PetrunError
from petrun.mindpet.log.log import (
    logger,
    logger_without_std,
    operation_logger_without_std,
    record_operation_and_service_info_log,
    set_logger_property,
)
from petrun.mindpet.log.log_files import log_files
from petrun.mindpet.task.boot_script import run_script
from petrun.mindpet.task.model_config import arguments_of
from petrun.mindpet.task.paths import require_mindpet, resolved_paths, risks
from petrun.mindpet.task.result_file import read_result
from petrun.mindpet.task.time_limit import seconds_of
from petrun.mindpet.utils.constants import ARG_NAMES, EVAL_RESULT_FILE_NAME, INFER_RESULT_FILE_NAME
from petrun.mindpet.utils.exceptions import MakeDirError, ManualCancelError, MindPetError, TaskError
from petrun.typing import JsonObject

_OPTIONAL = ("pretrained_model_path", "model_config_path", "timeout")
_RESULTS = {"evaluate": EVAL_RESULT_FILE_NAME, "infer": INFER_RESULT_FILE_NAME}


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A task whose arguments hold."""

    name: str
    script: Path
    arguments: tuple[str, ...]
    output: Path
    """The folder that the script gets as its --output_path: MINDPET_ and 32 hexadecimal digits, in the user's."""
    timeout_seconds: int | None


def start(task: str, values: Mapping[str, str | None], *, source: str, ask: bool) -> bool | JsonObject:
    """Run a task and return MindPet's answer: True of finetune; of evaluate and infer {"status": 0 or -1, "task_result": ...}, with an
    "error_message" where the status is -1.

    Args: task: finetune, evaluate or infer. values: the arguments in ARG_NAMES; None counts as not given. source: SDK or CLI, which
        stands in the lines of the log. ask: ask at the terminal before a path that others can change is used.
    Raises MindPetError.
    """
    set_logger_property(source)
    with log_files() as log:
        try:
            record_operation_and_service_info_log(f"Start {task}.")
            if log is not None:
                logger.info("log: %s", log)
            made = _prepared(task, values, ask)
            _run(made)
            answer = read_result(made.output / _RESULTS[task]) if task in _RESULTS else {"status": 0}
            if answer["status"] == 0:
                record_operation_and_service_info_log(f"{task.capitalize()} successfully.")
            else:
                # The caller shows why.
                logger_without_std.warning("%s", answer["error_message"])
            return answer if task in _RESULTS else True
        except PetrunError as error:
            # The caller shows it.
            logger_without_std.error("%s failed: %s", task.capitalize(), error)
            operation_logger_without_std.error("%s failed.", task.capitalize())
            raise


def _prepared(task: str, values: Mapping[str, str | None], ask: bool) -> _Task:
    given = {name: value for name, value in values.items() if value is not None}
    missing = [name for name in ARG_NAMES[task] if name not in given and name not in _OPTIONAL]
    if missing:
        raise MindPetError(f"{task} needs {', '.join(f'--{name}' for name in missing)}")
    limit = seconds_of(given.pop("timeout")) if "timeout" in given else None
    found = resolved_paths(given)
    require_mindpet(found["boot_file_path"])
    _accept(risks(found), ask)
    words: list[str] = []
    if "pretrained_model_path" in found:
        words += ["--pretrained_model_path", str(found["pretrained_model_path"])]
    if "model_config_path" in found:
        words += arguments_of(found["model_config_path"], task, logger.warning)
    output = _make_output(found["output_path"])
    words += ["--output_path", str(output), "--data_path", str(found["data_path"])]
    if "ckpt_path" in found:
        words += ["--ckpt_path", str(found["ckpt_path"])]
    return _Task(
        name=task, script=found["boot_file_path"], arguments=tuple(words), output=output, timeout_seconds=limit
    )


def _accept(unsafe: Mapping[str, str], ask: bool) -> None:
    """Ask the user at a terminal; else warn, and refuse a script that others can change, as it is going to run."""
    if not unsafe:
        return
    if ask and sys.stdin.isatty():
        console.write("\n".join(unsafe.values()) + "\nContinue? (y/n) ")
        if sys.stdin.readline().strip().lower() != "y":
            raise ManualCancelError("cancelled")
        return
    if "boot_file_path" in unsafe:
        raise MindPetError(unsafe["boot_file_path"])
    for text in unsafe.values():
        logger.warning(text)


def _make_output(parent: Path) -> Path:
    output = parent / f"MINDPET_{uuid.uuid4().hex.upper()}"
    try:
        output.mkdir(mode=0o750)
    except OSError as error:
        raise MakeDirError(f"--output_path: no folder can be made in {parent}: {error.strerror}") from error
    logger.info("output folder: %s", output)
    return output


def _run(made: _Task) -> None:
    record_operation_and_service_info_log(f"{made.name.capitalize()} task is running.")

    def show(line: str) -> None:
        logger.info("%s", line, extra={"Model": True})

    code = run_script(made.script, made.arguments, show, made.timeout_seconds)
    if code is None:
        raise TaskError(f"{made.script} ran longer than --timeout ({made.timeout_seconds} s), and was ended")
    if code < 0:
        raise TaskError(f"{made.script} was ended by signal {-code}")
    if code:
        raise TaskError(f"{made.script} failed with exit code {code}; what it printed stands above")


def result_text(name: str, answer: JsonObject) -> str:
    """Return the result of evaluate or infer as a line. Raises TaskError where the answer says that there is none."""
    if answer["status"] != 0:
        raise TaskError(answer["error_message"])
    return f"{_RESULTS[name]}: {json.dumps(answer['task_result'], ensure_ascii=False)}"
