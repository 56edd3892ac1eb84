"""`petrun eval`: base and delta side by side on the same rows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petrun import __version__, console
from petrun.checkpoint.delta_method import method_of
from petrun.data.examples.example_set import ExampleSet
from petrun.data.examples.summary import data_line, unknown_line
from petrun.data.rows.bad_rows import SKIPPED, write_skipped
from petrun.evaluate.compare import side_by_side, signature_lines
from petrun.evaluate.metrics import Metric, require_packages, select_metrics
from petrun.evaluate.score import Scorer
from petrun.inference.assembly import attach_delta, set_delta
from petrun.inference.evaluator import Evaluator
from petrun.inference.settings import Reading, open_reading
from petrun.tensors.output import check_file, write_text


def run(
    flags: Mapping[str, tuple[str, Any]],
    sets: Sequence[str],
    *,
    delta: str | None,
    alpha: float | None,
    out: str | None,
) -> None:
    """Score the base, then base plus delta, print both and write the numbers."""
    began = time.perf_counter()
    reading = open_reading(flags, sets, delta=delta, alpha=alpha, embedded_rows=True)
    check_file("--out", out, reading.inputs)
    rows = reading.rows()
    metrics = select_metrics(reading.config.eval.metrics, rows.metrics_of)
    require_packages(metrics)
    prompts = reading.rows(rows.task, for_generation=True) if any(m.generated for m in metrics) else None
    console.print(data_line(rows))
    unknown = unknown_line({"data": rows})
    if unknown:
        console.print(f"warning: {unknown}")
    base, with_delta, signatures = _scores(reading, rows, prompts, metrics)
    console.print(side_by_side(base, with_delta))
    if signatures:
        console.print(signature_lines(signatures))
    results = {
        **(with_delta if with_delta is not None else base or {}),
        "base": base,
        "delta": with_delta,
        "signatures": signatures,
        "task": rows.task,
        "rows": len(rows),
        "data": list(reading.paths),
        "seconds": time.perf_counter() - began,
        "petrun_version": __version__,
    }
    if out is not None:
        write_text(Path(out).expanduser(), json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        console.print(f"wrote {out}")
        write_skipped(Path(f"{out}.{SKIPPED}").expanduser(), rows)


def _scores(
    reading: Reading, rows: ExampleSet, prompts: ExampleSet | None, metrics: tuple[Metric, ...]
) -> tuple[dict[str, float], dict[str, float] | None, dict[str, str]]:
    """Figures of the base, and of base plus delta where there is one; how those of texts were computed."""
    loaded, fitted = reading.net(rows)
    seed = reading.config.train.seed
    assembled = None
    if fitted is not None and method_of(fitted.algo, fitted.config, fitted.path)[0].identity:
        # At its initial values it changes nothing: the net scores the base with it attached, and is compiled once.
        assembled = attach_delta(loaded, fitted, seed)
    evaluator = Evaluator(
        loaded=loaded,
        task=rows.task,
        metrics=metrics,
        examples=rows,
        prompts=prompts,
        tokenizer=reading.tokenizer,
        batch_size=reading.batch_size,
        buckets=reading.config.data.buckets,
        seq_len=reading.config.data.seq_len,
        max_new_tokens=reading.config.eval.max_new_tokens,
        scorer=Scorer(loaded.net, loaded.inputs, rows.task),
        ending=reading.ending(rows),
    )
    # A base without a head of its own has the untrained one that training started from.
    base = evaluator.score("base")
    if loaded.fresh:
        heads = ", ".join(sorted({name.split(".")[0] for name in loaded.fresh}))
        console.print(f"the base has no {heads} of its own: its figures are those of a new one")
    if fitted is None:
        return base, None, evaluator.signatures
    assembled = assembled or attach_delta(loaded, fitted, seed)
    set_delta(assembled, fitted)
    evaluator.renew(assembled.loaded)
    return base, evaluator.score("delta"), evaluator.signatures
