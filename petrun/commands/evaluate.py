"""`petrun eval`: score the base and its deltas on the same rows, and compare several deltas in pairs."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

from petrun import __version__, console
from petrun.config.commands.evaluate import EvaluateSettings
from petrun.config.effect import require_effect, require_text
from petrun.data.examples.example_set import ExampleSet
from petrun.data.examples.summary import data_line, unknown_line
from petrun.data.rows.bad_rows import SKIPPED, write_skipped
from petrun.errors import ConfigError
from petrun.evaluate.bootstrap import compare
from petrun.evaluate.compare import comparison_lines, side_by_side, signature_lines, table
from petrun.evaluate.metrics import require_packages, select_metrics
from petrun.inference.comparison import BASE, add_prompts, open_deltas, score_deltas
from petrun.inference.evaluator import score_base_and_delta
from petrun.inference.generation.multi_delta import named_path, named_paths
from petrun.inference.settings import InferenceSettings, resolve_settings
from petrun.tensors.output import check_file, write_text
from petrun.typing import JsonObject


def run(given: EvaluateSettings) -> JsonObject:
    """Score, print the figures, write them to the JSON file and return them."""
    with console.silenced(given.as_json):
        results = _evaluate_several(given) if len(given.deltas) > 1 else _evaluate_one(given)
    if given.as_json:
        console.print(json.dumps(results, indent=2, ensure_ascii=False))
    return results


def _evaluate_one(given: EvaluateSettings) -> JsonObject:
    """Score the base, then base plus delta."""
    began, out = time.perf_counter(), given.out
    require_effect(given, ("seed",), "on one delta: rows are drawn to compare several")
    delta = named_path(given.deltas[0])[1] if given.deltas else None
    settings = resolve_settings(given.flags, given.sets, delta=delta, alpha=given.alpha)
    check_file("--out", out, settings.input_files)
    rows = settings.rows()
    metrics = select_metrics(settings.config.eval.metrics, rows.metrics_of)
    require_packages(metrics)
    require_text(given.flags, any(metric.generated for metric in metrics), "none of the metrics is of generated text")
    prompts = settings.prompts(rows) if any(m.generated for m in metrics) else None
    _print_rows(rows, given.as_json)
    scores = score_base_and_delta(settings, rows, prompts, metrics)
    console.print(side_by_side(scores.base, scores.delta))
    if scores.signatures:
        console.print(signature_lines(scores.signatures))
    figures = scores.base if scores.delta is None else scores.delta
    results = {**figures, "base": scores.base, "delta": scores.delta, "signatures": scores.signatures}
    return _write(out, {**results, **_facts(settings, rows, began)}, rows)


def _evaluate_several(given: EvaluateSettings) -> JsonObject:
    """Score the base and every delta, and compare each pair of deltas by a paired bootstrap."""
    began, out, seed = time.perf_counter(), given.out, given.seed
    if seed < 0:
        raise ConfigError(f"--seed {seed} is below 0")
    if "delta_strategy" in given.flags:
        raise ConfigError("--delta-strategy is for one delta", hint="Join the others first: petrun reshard --single.")
    opened = open_deltas(given.flags, given.sets, named_paths(given.deltas), given.alpha)
    for delta in opened.values():
        check_file("--out", out, delta.settings.input_files)
    first = next(iter(opened.values()))
    metrics = select_metrics(first.settings.config.eval.metrics, first.rows.metrics_of)
    require_packages(metrics)
    require_text(given.flags, any(metric.generated for metric in metrics), "none of the metrics is of generated text")
    if any(m.generated for m in metrics):
        opened = add_prompts(opened)
    _print_rows(first.rows, given.as_json)
    scores, one_pass = score_deltas(opened, metrics)
    console.print(table({name: found.figures for name, found in scores.items()}))
    signatures = scores[BASE].signatures
    if signatures:
        console.print(signature_lines(signatures))
    pairs = {(a, b): compare(scores[a].samples, scores[b].samples, seed) for a, b in combinations(opened, 2)}
    for (a, b), found in pairs.items():
        console.print(comparison_lines(a, b, found))
    results = {
        "base": scores[BASE].figures,
        "deltas": {name: scores[name].figures for name in opened},
        "comparisons": [{"first": a, "second": b, **asdict(c)} for (a, b), found in pairs.items() for c in found],
        "one_pass": one_pass,
        "signatures": signatures,
        "seed": seed,
    }
    return _write(out, {**results, **_facts(first.settings, first.rows, began)}, first.rows)


def _print_rows(rows: ExampleSet, as_json: bool) -> None:
    console.tell(data_line(rows))
    if unknown := unknown_line({"data": rows}):
        (console.print_to_stderr if as_json else console.print)(f"warning: {unknown}")


def _facts(settings: InferenceSettings, rows: ExampleSet, began: float) -> JsonObject:
    return {
        "task": rows.task,
        "rows": len(rows),
        "data": list(settings.paths),
        "seconds": time.perf_counter() - began,
        "petrun_version": __version__,
    }


def _write(out: str | None, results: JsonObject, rows: ExampleSet) -> JsonObject:
    if out is not None:
        write_text(Path(out).expanduser(), json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        console.tell(f"wrote {out}")
        write_skipped(Path(f"{out}.{SKIPPED}").expanduser(), rows)
    return results
