"""Find the paths that a training run reads and writes, in its job's container and on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from petrun.cluster.jobs.mounts import WORKDIR, lies_in, on_this_machine
from petrun.cluster.jobs.submission import Submission
from petrun.data.templates.find_template import BUILTIN, TOKENIZER
from petrun.errors import ConfigError

if TYPE_CHECKING:
    from petrun.config.schema import RunConfig


def check_mounts(job: Submission, config: RunConfig, recipe: str | None) -> None:
    """Raises ConfigError for a path that the run reads or writes and that is in none of the job's mounts."""
    workdir = job.workdir or WORKDIR
    out = config.out.dir or "runs"
    if not lies_in(out, job.mounts, workdir, written=True):
        raise ConfigError(
            f"what the job saves, in {out} below {workdir}, lies in no --mount that can be written: it is gone with the pod",
            hint=f"Example: --mount pvc/results:{workdir}",
        )
    missing = [
        f"{flag} {path}"
        for flag, path in _paths_read(config, recipe)
        if path is not None and not lies_in(path, job.mounts, workdir, written=False)
    ]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: lies in no --mount, so that the pods do not have it (paths count from {workdir})",
            hint="Mount it: --mount /shared/llama:/models/llama:ro. What the image holds: --mount image:/models",
        )


def _paths_read(config: RunConfig, recipe: str | None) -> list[tuple[str, str | None]]:
    """Return (option, path) of everything that the run reads; the path is None where the option names no file."""
    model, data = config.model, config.data
    # `file.py:function`, and a template in a file: the other values of these options name no file.
    code = (model.family or "").rpartition(":")[0]
    return [
        ("--base", model.base),
        ("--base", model.base_strategy),
        ("model.config", model.config),
        ("--model", code if code.endswith(".py") else None),
        *(("--data", path) for path in data.path),
        ("--template", None if data.template in (*BUILTIN, TOKENIZER) else data.template),
        *(("--eval-data", path) for path in data.eval_path),
        ("--init-delta", config.init_delta),
        ("--init-delta", config.delta_strategy),
        ("recipe", recipe if recipe is not None and Path(recipe).expanduser().is_file() else None),
    ]


def base_on_this_machine(job: Submission, config: RunConfig) -> dict[str, str] | None:
    """Return the base's settings with its paths on this machine; None where its config.json is not here."""
    model = config.model
    if model.base is None:
        return {}
    paths = {}
    for key, path in (("base", model.base), ("config", model.config)):
        if path is not None:
            found = on_this_machine(path, job.mounts, job.workdir or WORKDIR)
            if found is None:
                return None
            paths[key] = str(found)
    base = Path(paths["base"])
    folder = base if base.is_dir() else base.parent
    return paths if "config" in paths or (folder / "config.json").is_file() else None
