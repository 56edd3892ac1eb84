"""Read the file in which a long pass over rows keeps what it has done, a JSON value in each line behind a first one that names the pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_done(path: Path, fingerprint: str) -> list[Any]:
    """Return the values of an interrupted pass, and leave the file with these alone: its last line may be half of one.

    [] and no file where it is of another pass, or where nothing was done. `fingerprint`: of the pass, as its first line has it.
    """
    entries: list[Any] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    if len(entries) < 2 or not isinstance(entries[0], dict) or entries[0].get("fingerprint") != fingerprint:
        path.unlink(missing_ok=True)
        return []
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return entries[1:]
