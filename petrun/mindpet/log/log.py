"""MindPet's loggers, as far as code written for MindPet calls them: lines on the standard output.

MindPet also writes files below $HOME/.cache/Huawei and ends the process where it cannot. Here only a task of a boot script does
(log_files.py): it keeps all that the script prints, and a run has its own log.jsonl.
"""

from __future__ import annotations

import logging
from typing import Any

from petrun import console

LOGGER_SOURCE_LIST = ("SDK", "CLI")
_FORMAT = "[%(levelname)s] %(asctime)s [%(process)d] [%(source)s] : %(message)s"
_SCRIPT_FORMAT = "%(asctime)s [%(process)d] [Model]: %(message)s"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_OF_FILES = (
    "stdout_nodes", "stdout_devices", "file_level", "append_rank_dir", "file_name", "max_file_size", "max_num_of_files",
)  # fmt: skip
logger_list: dict[str, logging.Logger] = {}


class _Source(logging.Filter):
    """Gives every record the name that set_logger_property sets."""

    name_of_source = "SDK"

    def filter(self, record: logging.LogRecord) -> bool:
        record.source = _Source.name_of_source
        return True


class LineFormatter(logging.Formatter):
    """MindPet's lines: those of a boot script (`extra={"Model": True}`) say [Model]."""

    def __init__(self, form: str = "") -> None:
        super().__init__(form or _FORMAT)
        self._of_script = logging.Formatter(_SCRIPT_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return self._of_script.format(record) if getattr(record, "Model", False) else super().format(record)


class _Printed(logging.Handler):
    """Prints each record as a line. A reader of the output that went away ends the process as in other commands, not in a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record))


def get_logger(logger_name: str = "mx_logger", **kwargs: object) -> logging.Logger:
    """The logger of that name, made at the first call: MindPet's signature.

    Args: to_std: write to the standard output, by default True. stdout_level: from which level on, by default INFO. stdout_format: of
        logging.Formatter. MindPet's arguments of files, ranks and nodes are accepted and have no effect, which is logged.
    Raises: TypeError for an argument that MindPet does not have or a level that is no str, ValueError for an unknown level.
    """
    if logger_name in logger_list:
        return logger_list[logger_name]
    unknown = sorted(set(kwargs) - {"to_std", "stdout_level", "stdout_format", *_OF_FILES})
    if unknown:
        raise TypeError(f"get_logger: MindPet has no argument {', '.join(unknown)}")
    level = kwargs.get("stdout_level", "INFO")
    if not isinstance(level, str):
        raise TypeError(f"get_logger: stdout_level must be a str, got {type(level).__name__}")
    if level not in _LEVELS:
        raise ValueError(f"get_logger: stdout_level must be one of {', '.join(_LEVELS)}, got {level!r}")
    made = logging.getLogger(f"petrun.mindpet.{logger_name}")
    made.setLevel(logging.DEBUG)
    made.propagate = False
    made.addFilter(_Source())
    if kwargs.get("to_std", True):
        handler = _Printed(level)
        handler.setFormatter(LineFormatter(str(kwargs.get("stdout_format") or "")))
        made.addHandler(handler)
    else:
        made.addHandler(logging.NullHandler())
    logger_list[logger_name] = made
    without_effect = [name for name in _OF_FILES if name in kwargs]
    if without_effect:
        made.warning("get_logger: %s without effect: petrun writes no log files", ", ".join(without_effect))
    return made


def set_logger_property(source: str) -> None:
    """Set which of SDK and CLI stands in the lines from here on; another name changes nothing, as in MindPet."""
    if source in LOGGER_SOURCE_LIST:
        _Source.name_of_source = source


logger = get_logger("logger")
logger_without_std = get_logger("logger_without_std", to_std=False)
operation_logger = get_logger("operation_logger")
operation_logger_without_std = get_logger("operation_logger_without_std", to_std=False)


def record_operation_and_service_info_log(msg: str, *args: object, **kwargs: Any) -> None:
    """logger.info, and the same line for the file of operations."""
    logger.info(msg, *args, **kwargs)
    operation_logger_without_std.info(msg, *args, **kwargs)


def record_operation_and_service_warning_log(msg: str, *args: object, **kwargs: Any) -> None:
    """logger.warning, likewise."""
    logger.warning(msg, *args, **kwargs)
    operation_logger_without_std.warning(msg, *args, **kwargs)


def record_operation_and_service_error_log(msg: str, *args: object, **kwargs: Any) -> None:
    """logger.error, likewise."""
    logger.error(msg, *args, **kwargs)
    operation_logger_without_std.error(msg, *args, **kwargs)
