"""A model configuration (params.yaml): `params` become arguments of the boot script, and of `freeze` it gets the path of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from petrun.errors import did_you_mean
from petrun.mindpet.utils.constants import MINDPET_DEFINED_PARAM_NAME
from petrun.mindpet.utils.exceptions import ModelConfigKeysInfoError, ModelConfigParamsInfoError
from petrun.mindpet.utils.io_utils import read_yaml_file


def arguments_of(path: Path, task: str, warn: Callable[[str], None]) -> list[str]:
    """Return the arguments that the file adds: `--KEY VALUE` of each line of `params`, `--advanced_config PATH` where it has `freeze`.

    `warn` gets a sentence for each key that is left out because it is an argument of the task. Raises: ReadYamlFileError,
    UnexpectedError, ModelConfigKeysInfoError, ModelConfigParamsInfoError.
    """
    known = ("params", "freeze") if task == "finetune" else ("params",)
    content = read_yaml_file(path)
    if not isinstance(content, dict):
        raise ModelConfigKeysInfoError(f"{path}: must hold {' and '.join(known)}")
    unknown = [str(key) for key in content if key not in known]
    if "freeze" in unknown:
        raise ModelConfigKeysInfoError(f"{path}: freeze belongs to finetune; {task} takes params alone")
    if unknown:
        raise ModelConfigKeysInfoError(
            f"{path}: unknown key {', '.join(unknown)}. {did_you_mean(unknown[0], known)} Settings of your own stand below params."
        )
    words = _params(path, content["params"], warn) if "params" in content else []
    return words + (["--advanced_config", str(path)] if "freeze" in content else [])


def _params(path: Path, params: object, warn: Callable[[str], None]) -> list[str]:
    if not isinstance(params, dict) or not params:
        raise ModelConfigParamsInfoError(f"{path}: params must hold lines KEY: VALUE")
    words: list[str] = []
    problems = []
    for key, value in params.items():
        problem = _problem_of(key, value)
        if problem:
            problems.append(f"{path}: params.{key} {problem}")
        elif str(key) in MINDPET_DEFINED_PARAM_NAME:
            warn(f"{path}: params.{key} is left out, as --{key} is an argument of the command itself")
        else:
            words += [f"--{key}", str(value)]
    if problems:
        raise ModelConfigParamsInfoError("\n".join(problems))
    return words


def _problem_of(key: object, value: object) -> str:
    if value is None or key is None:
        return "has no value"
    if isinstance(value, dict):
        return "holds keys of its own; params has one level"
    if isinstance(value, list):
        return "is a list; write it as one text, such as a,b, and split it in the boot script"
    if str(key).startswith("-") or str(value).startswith("--"):
        return "would be taken for another option: neither the key may begin with - nor the value with --"
    return ""
