"""MindPet's SDK: start a boot script from Python, and return its result.

An argument that is None counts as not given; the order of arguments by place is MindPet's. A failure is printed, and the answer is
False (finetune) or "" (evaluate, infer).
"""

from __future__ import annotations

from petrun.errors import PetrunError, did_you_mean
from petrun.mindpet.log.log import logger
from petrun.mindpet.task.start import start
from petrun.mindpet.utils.constants import ARG_NAMES
from petrun.mindpet.utils.exceptions import MindPetError
from petrun.typing import JsonObject


def finetune(*args: object, **kwargs: object) -> bool:
    """Run a boot script that tunes a model. Returns True, and False where it failed.

    Arguments: data_path, output_path, boot_file_path, pretrained_model_path=None, model_config_path=None, timeout=None (such as 1d2h).
    """
    return _answer("finetune", args, kwargs) is True


def evaluate(*args: object, **kwargs: object) -> JsonObject | str:
    """Run a boot script that scores a model and writes eval_result.json into its --output_path.

    Arguments: data_path, ckpt_path, output_path, boot_file_path, model_config_path=None, timeout=None.
    Returns {"status": 0, "task_result": content of the file}; {"status": -1, "task_result": "", "error_message": why} where the script
    ended well and left no such file; "" where it failed.
    """
    return _result("evaluate", args, kwargs)


def infer(*args: object, **kwargs: object) -> JsonObject | str:
    """As `evaluate`, with infer_result.json."""
    return _result("infer", args, kwargs)


def _result(task: str, args: tuple[object, ...], kwargs: dict[str, object]) -> JsonObject | str:
    answer = _answer(task, args, kwargs)
    return answer if isinstance(answer, dict) else ""


def _answer(task: str, args: tuple[object, ...], kwargs: dict[str, object]) -> bool | JsonObject:
    try:
        return start(task, _values(task, args, kwargs), source="SDK", ask=False)
    except PetrunError as error:
        logger.error("Exception occurred, error message: %s", error)
        return False


def _values(task: str, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, str | None]:
    """Return the arguments by name. Raises MindPetError for one that the task has not, or that is given twice."""
    names = ARG_NAMES[task]
    if len(args) > len(names):
        raise MindPetError(f"{task} takes at most {len(names)} arguments: {', '.join(names)}")
    if "quiet" in kwargs:
        raise MindPetError("quiet belongs to the command line; the SDK asks nothing")
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            raise MindPetError(f"{task} has no argument {name}. {did_you_mean(name, names)}")
        if name in given:
            raise MindPetError(f"{task}: {name} is given twice")
        given[name] = value
    return {name: None if value is None else str(value) for name, value in given.items()}
