"""MindPet's log files: service.log and operation.log below $HOME/.cache/Huawei/mxTuningKit/log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from logging import Handler
from logging.handlers import RotatingFileHandler
from pathlib import Path

from petrun.mindpet.log.log import LineFormatter, logger, logger_without_std, operation_logger_without_std

_BYTES, _FILES = 10 * 2**20, 10
_LOGGERS = {"service.log": (logger, logger_without_std), "operation.log": (operation_logger_without_std,)}


class _OwnFile(RotatingFileHandler):
    """A log file that the group may read and others may not."""

    def _open(self) -> TextIOWrapper:
        opened = super()._open()
        os.chmod(self.baseFilename, 0o640)
        return opened


def log_folder() -> Path:
    """Return node_N/device_M of this process below MindPet's folder, from SERVER_ID and DEVICE_ID (modulo 8); 0 where they say nothing."""

    def number(name: str) -> int:
        text = os.environ.get(name, "")
        return int(text) if text.isdecimal() else 0

    home = Path(os.environ.get("HOME") or "~").expanduser()
    place = f"node_{number('SERVER_ID')}", f"device_{number('DEVICE_ID') % 8}"
    return home.joinpath(".cache", "Huawei", "mxTuningKit", "log", *place)


@contextmanager
def log_files() -> Iterator[Path | None]:
    """A context manager: in its block the loggers also write the files. Gives service.log; None, with a warning, where it cannot be
    written: a task does not end for that."""
    opened: list[tuple[str, Handler]] = []
    folder = log_folder()
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        for name in _LOGGERS:
            file = _OwnFile(folder / name, maxBytes=_BYTES, backupCount=_FILES, encoding="utf-8")
            file.setFormatter(LineFormatter())
            opened.append((name, file))
    except OSError as error:
        logger.warning("no log files: %s cannot be written: %s", folder, error.strerror)
    for name, handler in opened:
        for each in _LOGGERS[name]:
            each.addHandler(handler)
    try:
        yield folder / "service.log" if opened else None
    finally:
        for name, handler in opened:
            for each in _LOGGERS[name]:
                each.removeHandler(handler)
            handler.close()
