"""Ask a program in a process of its own: torch and MindSpore do not share one, and its Python may be another."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from petrun.errors import SetupError
from petrun.typing import JsonObject


@contextmanager
def answered(what: str, python: str, program: ModuleType, request: JsonObject, name: str) -> Iterator[Path]:
    """Run the program as `python -c ... REQUEST ANSWER`, with files of the network's hubs off, and yield the answer's file.

    `what`: for messages; `program`: a module that imports nothing of petrun; `name`: of the answer's file, with its ending.
    Raises SetupError with the last lines that the process wrote where it fails or gives no answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "request.json"), Path(folder, name)
        asked.write_text(json.dumps(request), encoding="utf-8")
        # Its text, not its path: modules beside a script hide those of the standard library that have their names.
        text = Path(str(program.__file__)).read_text(encoding="utf-8")
        done = subprocess.run(
            [python, "-c", text, str(asked), str(answer)],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode or not answer.is_file():
            said = "\n  ".join(done.stderr.strip().splitlines()[-5:])
            raise SetupError(f"the process of {what} ended with code {done.returncode}:\n  {said}")
        yield answer
