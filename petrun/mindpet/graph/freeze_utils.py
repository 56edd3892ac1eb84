"""MindPet's freeze interface: freeze and unfreeze parameters by globs over their paths.

A parameter that only `include` matches is frozen, one that only `exclude` matches is unfrozen, one that both match stays as it is.
`freeze.py` is what petrun's own runs use: there ownership is declared, not matched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from mindspore import nn

from petrun.errors import TrainingError
from petrun.graph.freeze import Trainable, match_names, trainable_of
from petrun.mindpet.utils.constants import DELTA_LIST
from petrun.mindpet.utils.exceptions import ModelConfigFreezeInfoError, UnexpectedError
from petrun.mindpet.utils.io_utils import read_yaml_file
from petrun.typing import Cell, JsonObject, Parameter

_ALIASES = {"prefix": "prefixtuning"}
# A cell that a delta is made of: `mindpet_delta_adapter_down_sampler`, `tk_delta_prefixtuning_control_trans`.
_PART_OF_A_DELTA = re.compile(r"(mindpet|tk)_delta_(adapter|low_rank_adapter|prefixtuning|ptuning2)_.+")


def freeze_modules(
    model: Cell, include: list[str] | None = None, exclude: list[str] | None = None, strict: bool = False
) -> Trainable:
    """Freeze what `include` matches, unfreeze what `exclude` matches. Returns what trains now.

    Args: model: a Cell. include, exclude: non-empty lists of globs over full paths; not both None.
        strict: a pattern that matches nothing, and a model that is left with nothing to train, are errors.
    Raises: TypeError, ValueError; with strict TargetError, TrainingError.
    """
    _check_cell(model)
    if include is None and exclude is None:
        raise ValueError("freeze_modules: give include or exclude")
    _check_patterns("include", include)
    _check_patterns("exclude", exclude)
    _apply(model, include or [], exclude or [], strict)
    return _summary(model, strict)


def freeze_delta(
    model: Cell,
    mode: str,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    strict: bool = False,
) -> Trainable:
    """Train what an algorithm owns and freeze the rest, then apply `include` and `exclude` as `freeze_modules` does.

    Whatever trained before, exactly the parameters of the mode train: those below a `mindpet_delta_<mode>` (or `tk_delta_<mode>`)
    cell or name; for bitfit every bias and every shift (`beta`) of a norm, but not those inside adapters and prefixes.
    Args: mode: lora, prefixtuning (or prefix), adapter, low_rank_adapter, bitfit or ptuning2, in any case. Others: as above;
        an empty include or exclude counts as none.
    Raises: TypeError: model is no Cell. ValueError: another mode. UnexpectedError: include or exclude does not read.
        With strict TargetError, TrainingError.
    """
    _check_cell(model)
    key = mode.lower() if isinstance(mode, str) else ""
    key = _ALIASES.get(key, key)
    if key not in DELTA_LIST:
        raise ValueError(f"freeze_delta: mode must be one of {', '.join(DELTA_LIST)}, got {mode!r}")
    names = [name for name, _ in model.parameters_and_names()]
    owned = _bitfit(names) if key == "bitfit" else {name for name in names if _belongs(name, key)}
    if strict and not owned:
        raise TrainingError(f"freeze_delta: the model has no parameter that mode {key} trains")
    for name, parameter in model.parameters_and_names():
        parameter.requires_grad = name in owned and _can_train(parameter)
    if include or exclude:
        try:
            _check_patterns("include", include or None)
            _check_patterns("exclude", exclude or None)
        except TypeError as error:
            raise UnexpectedError(f"freeze_delta: {error}") from error
        _apply(model, include or [], exclude or [], strict)
    return _summary(model, strict)


def freeze_from_config(model: Cell, config_path: str, strict: bool = False) -> Trainable:
    """`freeze_modules` with the lists of a YAML file: `freeze: {include: [...], exclude: [...]}`.

    Raises: TypeError: model is no Cell, or config_path no str. ValueError: config_path is empty. ReadYamlFileError: the file is
        missing or a link. UnexpectedError: it cannot be read or is not YAML. ModelConfigFreezeInfoError: it has no `freeze`, or that says
        nothing or something else. Then what freeze_modules raises.
    """
    _check_cell(model)
    if not isinstance(config_path, str):
        raise TypeError(f"freeze_from_config: config_path must be a str, got {type(config_path).__name__}")
    if not config_path:
        raise ValueError("freeze_from_config: config_path is empty")
    lists = _freeze_lists(config_path, read_yaml_file(Path(config_path)))
    return freeze_modules(model, lists.get("include"), lists.get("exclude"), strict)


def _freeze_lists(path: str, content: object) -> JsonObject:
    if not isinstance(content, dict) or "freeze" not in content:
        raise ModelConfigFreezeInfoError(f"{path} has no key `freeze`")
    lists = content["freeze"]
    if not isinstance(lists, dict) or not lists or set(lists) - {"include", "exclude"}:
        raise ModelConfigFreezeInfoError(f"{path}: `freeze` must hold include, exclude or both, and nothing else")
    return lists


def _check_cell(model: Cell) -> None:
    if not isinstance(model, nn.Cell):
        raise TypeError(f"model must be a Cell, got {type(model).__name__}")


def _check_patterns(name: str, patterns: object) -> None:
    if patterns is None:
        return
    if not isinstance(patterns, list) or not patterns:
        raise TypeError(f"{name} must be a non-empty list, got {patterns!r}")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{name} must hold globs, not {pattern!r}")


def _can_train(parameter: Parameter) -> bool:
    # Token numbers are parameters too.
    return "Float" in str(parameter.dtype)


def _apply(model: Cell, include: list[str], exclude: list[str], strict: bool) -> None:
    if strict:
        names = [name for name, _ in model.parameters_and_names()]
        match_names(names, include, "include")
        match_names(names, exclude, "exclude")
    for name, parameter in model.parameters_and_names():
        frozen, released = _matches(name, include), _matches(name, exclude)
        if frozen and not released:
            parameter.requires_grad = False
        elif released and not frozen and _can_train(parameter):
            parameter.requires_grad = True


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _belongs(name: str, mode: str) -> bool:
    return any(f"{mark}_delta_{mode}" in name for mark in ("mindpet", "tk"))


def _bitfit(names: Iterable[str]) -> set[str]:
    known = set(names)

    def trains(name: str) -> bool:
        path, dot, leaf = name.rpartition(".")
        shift = leaf == "beta" and f"{path}{dot}gamma" in known
        inside = any(_PART_OF_A_DELTA.fullmatch(part) for part in path.split("."))
        return (shift or leaf.endswith("bias")) and not inside

    return {name for name in known if trains(name)}


def _summary(model: Cell, strict: bool) -> Trainable:
    trainable = trainable_of(model)
    if strict and not trainable.parameters:
        raise TrainingError("nothing is left to train", hint="Name what trains in exclude, or freeze less.")
    return trainable
