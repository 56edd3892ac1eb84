"""`petrun predict`: write one JSON object for each row, in the data's order."""

from __future__ import annotations

import json
from pathlib import Path

from petrun import console
from petrun.config.commands.evaluate import PredictSettings
from petrun.config.effect import require_text
from petrun.data.rows.bad_rows import SKIPPED, write_skipped
from petrun.data.tasks import PREFERENCE
from petrun.errors import ConfigError
from petrun.inference.assembly import attach_delta, set_delta
from petrun.inference.prediction import predictions, write_logits
from petrun.inference.settings import resolve_settings
from petrun.tensors.output import check_file, write_text


def run(
    given: PredictSettings,
) -> None:
    """Predict every row of the data, and write the predictions, the logits, or both."""
    out, logits_file = given.out, given.logits
    _check_outputs(out, logits_file)
    settings = resolve_settings(given.flags, given.sets, delta=given.delta, alpha=given.alpha)
    check_file("--out", out, settings.input_files)
    check_file("--logits", logits_file, settings.input_files)
    rows = settings.rows(need_target=False)
    if rows.task == PREFERENCE:
        rows = settings.rows("instruct", need_target=False)
    if rows.task == "lm":
        # The prediction is the loss of a row, and labels say which of its tokens count.
        rows = settings.rows("lm")
    generates = rows.task == "instruct" and out is not None
    require_text(
        given.flags, generates, f"of rows for {rows.task}{' --logits' if out is None else ''} no text is written"
    )
    loaded, fitted = settings.load(rows)
    if fitted is not None:
        assembled = attach_delta(loaded, fitted, settings.config.train.seed)
        set_delta(assembled, fitted)
        loaded = assembled.loaded
    if out is not None:
        lines = [json.dumps(item, ensure_ascii=False) for item in predictions(settings, rows, loaded)]
        write_text(Path(out).expanduser(), "".join(line + "\n" for line in lines))
        console.tell(f"wrote {len(lines)} rows to {out}")
        write_skipped(Path(f"{out}.{SKIPPED}").expanduser(), rows)
    if logits_file is not None:
        shape = write_logits(Path(logits_file).expanduser(), settings, rows, loaded)
        console.tell(f"wrote logits {shape} to {logits_file}")


def _check_outputs(out: str | None, logits_file: str | None) -> None:
    if out is None and logits_file is None:
        raise ConfigError("--out is missing: the file to write predictions to", hint="Example: --out predictions.jsonl")
    if logits_file is not None and not logits_file.endswith(".safetensors"):
        raise ConfigError(
            f"--logits {logits_file} must end in .safetensors", hint="Example: --logits logits.safetensors"
        )
