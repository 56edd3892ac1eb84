"""The result that a boot script leaves: eval_result.json or infer_result.json in its --output_path."""

from __future__ import annotations

import json
from pathlib import Path

from petrun.typing import JsonObject


def read_result(path: Path) -> JsonObject:
    """Return MindPet's answer: {"status": 0, "task_result": CONTENT}, or {"status": -1, "task_result": "", "error_message": WHY}."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return _failed(f"the boot script wrote no {path.name} into its --output_path, {path.parent}")
    except ValueError as error:
        return _failed(f"{path} is not JSON: {error}")
    except OSError as error:
        return _failed(f"{path} cannot be read: {error.strerror}")
    return {"status": 0, "task_result": content} if content else _failed(f"{path} is empty")


def _failed(why: str) -> JsonObject:
    return {"status": -1, "task_result": "", "error_message": why}
