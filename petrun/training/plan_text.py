"""Write what a run prints: the plan before step 1, the first rows, and the next commands at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from petrun import kernels
from petrun.assets import task_file
from petrun.checkpoint.run_files import RESULTS, RUN_YAML
from petrun.config.schema import RunConfig
from petrun.console import table
from petrun.data.batches.buckets import Batching
from petrun.data.examples.summary import data_line, unknown_line
from petrun.data.tasks import IMAGE
from petrun.delta import find_method
from petrun.evaluate.compare import spell
from petrun.graph.freeze import Trainable
from petrun.inference.assembly import Assembled, base_path
from petrun.models.factory import is_factory
from petrun.parallel.layout import Layout
from petrun.tensors.known_names import DELTA_PREFIX
from petrun.train.loop import Plan
from petrun.train.schedules import Schedule
from petrun.training.run_folder import STATES, RunFolder
from petrun.training.setup.resolve import ResolvedRun
from petrun.training.setup.sources import Sources
from petrun.training.setup.training_setup import TrainingSetup

_PREVIEW_ROWS = 3


def figures(values: Mapping[str, float]) -> str:
    """Return `accuracy 0.8370  loss 0.3812`."""
    return "  ".join(f"{name} {spell(value)}" for name, value in values.items())


def plan(setup: TrainingSetup, memory: str) -> str:
    """Return the plan of a run as text: what `plan_lines` says, and the origin of every value that is not a default."""
    lines = plan_lines(setup.resolved, setup.assembled, setup.trainable, memory)
    return table([*lines, ("set by", origins_line(setup.resolved.origins))])


def plan_lines(resolved: ResolvedRun, assembled: Assembled, trainable: Trainable, memory: str) -> list[tuple[str, str]]:
    """Return (name, text) of the plan's lines: model, delta, data, batch arithmetic, and `memory` of a rank."""
    config, sources = resolved.config, resolved.sources
    rows = [
        ("model", _model_line(resolved, assembled, trainable)),
        ("delta", delta_line(assembled, trainable)),
        ("data", data_line(sources.train)),
    ]
    if sources.evaluation is not None:
        rows.append(("eval", data_line(sources.evaluation)))
    unread = unread_line(sources)
    if unread:
        rows.append(("not read", unread))
    unknown = unknown_line({"data": sources.train, "eval": sources.evaluation})
    if unknown:
        rows.append(("warning", unknown))
    if resolved.layout.split:
        rows.append(("ranks", f"{resolved.layout}: {resolved.layout.world} ranks, each with its shards"))
    return [
        *rows,
        ("shapes", _shapes_line(config, resolved.batching, resolved.layout)),
        ("steps", _steps_line(config, resolved.plan, resolved.layout)),
        ("rate", rate_line(resolved.schedule, config)),
        ("memory", memory),
        ("kernels", kernels.status().reason),
    ]


def _model_line(resolved: ResolvedRun, assembled: Assembled, trainable: Trainable) -> str:
    loaded, device = assembled.loaded, resolved.device
    base = base_path(resolved.config.model) or "no base"
    model = loaded.family if loaded.family == loaded.model_type else f"{loaded.model_type} ({loaded.family})"
    return f"{model}, {base}, {trainable.all_values:,} parameters, {device.compute_dtype} on {device.target}"


def shapes_of(config: RunConfig, batching: Batching, layout: Layout) -> list[tuple[int, ...]]:
    """Return the batch shapes (rows, tokens), of an encoder-decoder (rows, tokens of the sources, of the targets), of the first rank in the
    first epoch: on another rank a share of a batch is smaller by at most one row. Where operators are split, every batch has the same
    number of rows.
    """
    return sorted(
        {
            (config.train.batch_size if layout.split else max(1, rows // layout.dp), *lengths)
            for rows, *lengths in batching.shapes(1)
        }
    )


def _shapes_line(config: RunConfig, batching: Batching, layout: Layout) -> str:
    shapes = shapes_of(config, batching, layout)
    listed = ", ".join(
        f"{rows}x{'+'.join(map(str, lengths))}" if any(lengths) else f"{rows} rows" for rows, *lengths in shapes[:6]
    ) + (", ..." if len(shapes) > 6 else "")
    return f"{len(shapes)} to compile in the first epoch ({listed}), {batching.padding():.0%} padding"


def _steps_line(config: RunConfig, steps: Plan, layout: Layout) -> str:
    return (
        f"{steps.total_steps:,} = {steps.micro_batches_per_epoch:,} batches of {batch_line(config.train.batch_size, layout)} an epoch"
        + (f", {steps.accumulate} to a step" if steps.accumulate > 1 else "")
        + f", {steps.total_micro_batches / steps.micro_batches_per_epoch:.4g} epochs"
    )


def batch_line(rows: int, layout: Layout) -> str:
    """Return `16`, or for several ranks `64 (16 on each of 4 ranks)`."""
    if layout.dp == 1:
        return str(rows)
    return f"{rows * layout.dp} ({rows} on each of {layout.dp} ranks)"


def origins_line(origins: Mapping[str, str]) -> str:
    """Return where values came from, in short; run.yaml has it key by key."""
    flags = [origin for origin in origins.values() if origin.startswith("--")]
    others: dict[str, list[str]] = {}
    for key, origin in origins.items():
        if not origin.startswith(("--", "default")):
            others.setdefault(origin, []).append(key)
    parts = [", ".join(dict.fromkeys(flags))] if flags else []
    parts += [
        f"{origin}: {', '.join(keys) if len(keys) < 4 else f'{len(keys)} keys'}" for origin, keys in others.items()
    ]
    return "; ".join(parts) or "defaults"


def delta_line(assembled: Assembled, trainable: Trainable) -> str:
    """Return what the method attached, and what share of the net trains."""
    layers = {_layer(name) for name in assembled.attached}
    where = f", {len(layers)} layer{'s' if len(layers) > 1 else ''}" if assembled.method.trains != "all" else ""
    settings = ", ".join(
        f"{key} {value}"
        for key, value in assembled.config.model_dump(exclude_defaults=False).items()
        if isinstance(value, int | float) or key == "variant"
    )
    heads = sorted({name.split(".")[0] for name in assembled.heads})
    also = f", with {', '.join(heads)}" if heads else ""
    return (
        f"{assembled.method.name}{' (' + settings + ')' if settings else ''}{where}{also}: "
        f"{trainable.trained_values:,} trained ({trainable.share:.3%})"
    )


def _layer(name: str) -> str:
    """Return the path of the layer that a method's parameter was attached to."""
    path, found, _ = name.partition(f".{DELTA_PREFIX}")
    return path if found else name.rpartition(".")[0]


def unread_line(sources: Sources) -> str:
    """Return a line about the columns of the files, and keys of their messages, that nothing reads."""
    sets = [rows for rows in (sources.train, sources.evaluation) if rows is not None]
    columns = dict.fromkeys(name for rows in sets for name in rows.unused_columns)
    keys = dict.fromkeys(name for rows in sets for name in rows.unused_keys)
    parts = [f"column{'s' * (len(columns) > 1)} {_listed(columns)}"] if columns else []
    parts += [f"key{'s' * (len(keys) > 1)} {_listed(keys)} of messages"] if keys else []
    return "; ".join(parts)


def _listed(names: Collection[str]) -> str:
    return ", ".join(list(names)[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def rate_line(schedule: Schedule, config: RunConfig) -> str:
    clip = f"clip {config.optim.clip:g}" if config.optim.clip else "no clipping"
    return (
        f"{schedule.kind} to {schedule.peak:g}, {schedule.warmup_steps} warm-up steps, "
        f"weight decay {config.optim.weight_decay:g}, {clip}, seed {config.train.seed}"
    )


def dry_run(resolved: ResolvedRun) -> str:
    """Return what --dry-run prints below the plan: the first rows with their loss mask, and the files that a run would write."""
    place, files = files_of(resolved)
    return f"{first_rows(resolved)}\nnothing was written. A run writes into {place}: {', '.join(files)}"


def first_rows(resolved: ResolvedRun) -> str:
    """Return the first rows as the model reads them, with what is scored."""
    from petrun.data.examples.preview import preview

    sources = resolved.sources
    return preview(sources.train, sources.tokenizer, _PREVIEW_ROWS, colour=sys.stdout.isatty())


def files_of(resolved: ResolvedRun) -> tuple[str, list[str]]:
    """Return (the run folder, the files that a run writes into it)."""
    config = resolved.config
    place = config.out.dir or f"runs/{config.algo}-N"
    out = RunFolder(path=Path(place), algo=config.algo, format=config.out.format, sharded=resolved.layout.split)
    files = [RUN_YAML, out.log.name, out.delta.name, RESULTS, f"{STATES}/"]
    return place, files + ([out.best.name] if resolved.sources.evaluation is not None else [])


def saved(out: RunFolder, seconds: float) -> str:
    """Return the path of the delta, its size and the time of the run."""
    return f"saved {out.delta} ({out.delta_bytes / 1000:,.0f} kB) in {seconds:.0f} s"


def next_commands(out: RunFolder, config: RunConfig, sources: Sources) -> str:
    """Return the commands that use the delta."""
    quote = shlex.quote
    base = f" --base {quote(config.model.base)}" if config.model.base else ""
    model = f" --model {quote(config.model.family)}" if config.model.family else ""
    own_files = config.data.path != (str(task_file("train")),)
    evaluated = f" --data {quote(','.join(config.data.eval_path or ('FILE',)))}" if own_files else ""
    place = quote(str(out.path))
    where = f"{base}{model} --delta {place}"
    lines = [
        "next:",
        f"  petrun eval{where}{evaluated}",
        f"  petrun predict{where}{' --data FILE' if own_files else ''} --out predictions.jsonl",
        f"  petrun inspect {place}",
    ]
    if config.data.task == IMAGE:
        # Other commands do not read such a base yet.
        lines = ["next:", f"  petrun inspect {place}"]
        if find_method(config.algo).low_rank is not None:
            lines.append(f"  petrun delta convert {place} --to diffusers --out pytorch_lora_weights.safetensors")
        return "\n".join(lines)
    if not is_factory(config.model.family) and find_method(config.algo).merge is not None:
        lines.insert(3, f"  petrun merge{where} --out merged")
    return "\n".join(lines)
