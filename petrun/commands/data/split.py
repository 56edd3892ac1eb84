"""`petrun data split`: rows divided among parts, one file each."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from petrun import console
from petrun.config.commands.data import SplitSettings
from petrun.curation.keys import normalised, text_key
from petrun.curation.output import DROPPED, REPORT, UNREADABLE, dropped_lines
from petrun.curation.parts import PartReader
from petrun.curation.reading import STOP, RowFiles, UnreadableRow
from petrun.curation.splitting import divide, parse_parts
from petrun.curation.writing import row_writer
from petrun.errors import ConfigError
from petrun.tensors.atomic import atomic_folder, refuse_occupied


def run(given: SplitSettings) -> None:
    """Read the questions, divide them, and write every part's rows in the file's order. Raises ConfigError, DataError, OutputError."""
    if given.out is None:
        raise ConfigError("--out is missing: the folder of the parts", hint="Example: --out parts")
    parts = parse_parts(given.parts)
    out = Path(given.out).expanduser()
    refuse_occupied(out)
    reader = PartReader(source=given.source, target=given.target)
    files = RowFiles(given.files, given.on_bad_row or STOP, given.encoding, reader.columns)
    keys, bad = [], list[UnreadableRow]()
    for row in files.rows(bad.append):
        both = reader(row)
        keys.append(text_key(normalised(both.question or both.answer)))
    numbers = divide(keys, parts, given.seed)
    with atomic_folder(out) as folder:
        with ExitStack() as stack:
            writers = [stack.enter_context(row_writer(folder / f"{name}.jsonl")) for name in parts]
            for row, number in zip(files, numbers.tolist(), strict=True):
                if number >= 0:
                    writers[number].write(row.cells)
        counts = {name: writer.count for name, writer in zip(parts, writers, strict=True)}
        report = {
            "command": "split",
            "inputs": files.digests(),
            "settings": {"parts": parts, "seed": given.seed},
            "rows": counts,
            "in no part": int((numbers < 0).sum()),
            UNREADABLE: len(bad),
        }
        if bad:
            (folder / DROPPED).write_text(dropped_lines(bad), encoding="utf-8")
        (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, count in counts.items():
        console.tell(f"wrote {count:,} rows to {out / f'{name}.jsonl'}")
    if report["in no part"]:
        console.print(f"{report['in no part']:,} rows are in no part: the shares add up to less than 1")
    if bad:
        console.print(f"left out {len(bad):,} lines that cannot be read, each in {out / DROPPED}")
