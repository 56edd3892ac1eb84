"""Keep what a long pass over rows has done in a file, a JSON value in each line behind a first one that names the pass, so that a pass that
was interrupted goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_GROUP_ROWS = 64


def done_of(out: Path) -> Path:
    """Return the file beside a result in which a pass keeps what is done, until the result is there."""
    return Path(f"{out}.partial")


def read_done(path: Path, fingerprint: str) -> list[Any]:
    """Return the values of an interrupted pass, and leave the file with these alone: its last line may be half of one.

    [] and no file where it is of another pass, or where nothing was done. `fingerprint`: of the pass, as its first line has it.
    """
    entries: list[Any] = []
    # Bytes: a text may hold separators of lines that JSON does not escape, and the last line may end within a character.
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    if len(entries) < 2 or not isinstance(entries[0], dict) or entries[0].get("fingerprint") != fingerprint:
        path.unlink(missing_ok=True)
        return []
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return entries[1:]


def resumed(
    items: Iterator[T], done: Path, key: Sequence[object], compute: Callable[[Mapping[int, T]], Mapping[int, Any]]
) -> Iterator[tuple[T, Any]]:
    """Yield each item with its value, in order, where items are computed in groups and values are kept.

    Inputs: `done`, file of what is done, which the caller removes; `key`, what the values depend on, by which an interrupted pass is
    recognised; `compute`, from number -> item to number -> value, which JSON can hold. An item that it leaves out has None.
    """
    fingerprint = hashlib.sha256(repr(tuple(key)).encode()).hexdigest()
    known = {int(number): value for number, value in read_done(done, fingerprint)}
    with done.open("a", encoding="utf-8") as file:
        if not known:
            file.write(json.dumps({"fingerprint": fingerprint}) + "\n")
        numbered = enumerate(items)
        while group := list(islice(numbered, _GROUP_ROWS)):
            new = compute({number: item for number, item in group if number not in known})
            known.update(new)
            file.writelines(json.dumps([number, value], ensure_ascii=False) + "\n" for number, value in new.items())
            file.flush()
            yield from ((item, known.get(number)) for number, item in group)
