"""`petrun job`: the manifest or script that submits a training job."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrun import console
from petrun.assets import default_recipe
from petrun.cluster.jobs.ascend import ascend_job
from petrun.cluster.jobs.pod import WORKDIR
from petrun.cluster.jobs.scripts import CORES_PER_CARD, cores, shell, slurm
from petrun.cluster.jobs.submission import (
    Submission,
    check,
    lies_in,
    on_this_machine,
    parse_memory,
    parse_mount,
    parse_time,
)
from petrun.cluster.jobs.volcano import volcano
from petrun.commands.rank_table import write_new
from petrun.config.load import load_run_config, to_yaml
from petrun.config.schema import RunConfig
from petrun.console import print_to_stderr
from petrun.data.templates.template import BUILTIN, TOKENIZER
from petrun.errors import ConfigError, did_you_mean
from petrun.parallel.layout import complete_layout, requested_layout

_PODS = ("volcano", "ascendjob")
_QUEUED = (*_PODS, "slurm")
TARGETS = (*_QUEUED, "shell")
_ONLY = {
    "--image": _PODS,
    "--namespace": _PODS,
    "--mount": _PODS,
    "--node-selector": _PODS,
    "--ring-controller": _PODS,
    "--runtime-class": _PODS,
    "--gres": ("slurm",),
    "--queue": _QUEUED,
    "--time": _QUEUED,
    "--memory": _QUEUED,
    "--cpus": _QUEUED,
    "--restarts": ("volcano", "slurm"),
    "--master-addr": ("shell",),
}
_NEXT = {
    "volcano": "kubectl apply -f {}",
    "ascendjob": "kubectl apply -f {}",
    "slurm": "sbatch {}",
    "shell": "bash {}",
}


@dataclass(frozen=True)
class TrainLine:
    """A command line of `petrun train`: as typed, and what it means."""

    arguments: Sequence[str]
    recipe: str | None
    flags: Mapping[str, tuple[str, Any]]
    sets: Sequence[str]
    grace_seconds: float | None


def run(
    to: str,
    line: TrainLine,
    options: Mapping[str, Any],
    *,
    out: str | None = None,
    force: bool = False,
) -> None:
    """Write or print it. `options`: flag -> value, None: not given.

    Raises ConfigError with what is wrong, in the options or in the line, and OutputError for a file that exists.
    """
    if to not in TARGETS:
        raise ConfigError(f"--to {to}: unknown. {did_you_mean(to, TARGETS)}")
    given = {flag: value for flag, value in options.items() if value not in (None, [], ())}
    foreign = [flag for flag in given if to not in _ONLY.get(flag, TARGETS)]
    if foreign:
        raise ConfigError(f"{', '.join(foreign)}: nothing that --to {to} has", hint="Leave it out.")
    job = _submission(line, given)
    check(job)
    # What the job would say of its line when it starts is said now, in front of the queue: it takes no data, model or card.
    config = load_run_config(line.recipe, line.flags, line.sets, embedded=default_recipe()).config
    _needs(to, job)
    if to in _PODS:
        _check_mounts(job, config, line.recipe)
    _check_layout(config, job)
    if job.hosts > 1 and config.out.dir is None:
        raise ConfigError(
            f"--hosts {job.hosts}: the job needs --out, the same on every host",
            hint="Give it after --: -- --out /shared/run",
        )
    if job.restarts and config.out.dir is None:
        raise ConfigError(
            f"--restarts {job.restarts}: the job needs --out, or each start would begin a run of its own",
            hint="Give it after --: -- --out /shared/run",
        )
    text = {"volcano": _manifest, "ascendjob": _manifest_of_operator, "slurm": slurm, "shell": shell}[to](job)
    if to == "slurm" and job.cpus is None:
        print_to_stderr(
            f"--cpus was not given: {cores(job)} cores of each host are asked for, {CORES_PER_CARD} for each card"
        )
    if out is None:
        console.print(text.rstrip("\n"))
        return
    path = write_new("--out", out, text, force, [])
    numbered = " HOST_RANK" if to == "shell" and job.hosts > 1 else ""
    console.print(f"wrote {path}; start it with: {_NEXT[to].format(shlex.quote(str(path)))}{numbered}")


def _check_layout(config: RunConfig, job: Submission) -> None:
    """Raises ConfigError where the layout does not fit the cards, or the base where its config.json is to be had on this machine."""
    asked = config.parallel
    base = _here(config, job)
    if base is not None and max(asked.tp, asked.pp) > 1:
        # Only here: it loads MindSpore.
        from petrun.training.setup.resolve_layout import resolve_layout

        resolve_layout(config.model_copy(update={"model": config.model.model_copy(update=base)}), job.cards)
        return
    complete_layout(requested_layout(asked), job.cards)


def _here(config: RunConfig, job: Submission) -> dict[str, Any] | None:
    """The base's settings with its paths on this machine; None where its config.json is not here."""
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
    folder = Path(paths["base"])
    beside = folder if folder.is_dir() else folder.parent
    return paths if "config" in paths or (beside / "config.json").is_file() else None


def _check_mounts(job: Submission, config: RunConfig, recipe: str | None) -> None:
    """Raises ConfigError for what a pod reads or writes and is in none of its mounts."""
    workdir = job.workdir or WORKDIR
    out = config.out.dir or "runs"
    if not lies_in(out, job.mounts, workdir, written=True):
        raise ConfigError(
            f"what the job saves, in {out} below {workdir}, lies in no --mount that can be written: it is gone with the pod",
            hint=f"Example: --mount pvc/results:{workdir}",
        )
    model, data = config.model, config.data
    own_recipe = recipe if recipe is not None and Path(recipe).expanduser().is_file() else None
    # `file.py:function`, and a template in a file: what else they may be has no folder.
    code = (model.family or "").rpartition(":")[0]
    template = None if data.template in (*BUILTIN, TOKENIZER) else data.template
    read = {
        "--base": [model.base, model.base_strategy],
        "model.config": [model.config],
        "--model": [code if code.endswith(".py") else None],
        "--data": data.path,
        "--template": [template],
        "--eval-data": data.eval_path,
        "--init-delta": [config.init_delta, config.delta_strategy],
        "recipe": [own_recipe],
    }
    missing = [
        f"{flag} {path}"
        for flag, paths in read.items()
        for path in paths
        if path is not None and not lies_in(path, job.mounts, workdir, written=False)
    ]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: lies in no --mount, so that the pods do not have it (paths count from {workdir})",
            hint="Mount it: --mount /shared/llama:/models/llama:ro. What the image holds: --mount image:/models",
        )


def _submission(line: TrainLine, given: Mapping[str, Any]) -> Submission:
    time, memory = given.get("--time"), given.get("--memory")
    defaults = {"--ring-controller": "ascend-910b", "--gres": "npu", **given}
    return Submission(
        name=given.get("--name", "petrun"),
        command=tuple(line.arguments),
        cards=given.get("--cards", 1),
        hosts=given.get("--hosts", 1),
        port=given.get("--master-port"),
        address=given.get("--master-addr"),
        image=given.get("--image"),
        queue=given.get("--queue"),
        time_seconds=None if time is None else parse_time(time),
        memory=None if memory is None else parse_memory(memory),
        cpus=given.get("--cpus"),
        mounts=tuple(parse_mount(text) for text in given.get("--mount", ())),
        workdir=given.get("--workdir"),
        setup=tuple(given.get("--setup", ())),
        grace_seconds=math.ceil(30 if line.grace_seconds is None else line.grace_seconds),
        namespace=given.get("--namespace"),
        node_labels=tuple(given.get("--node-selector", ())),
        ring_controller=defaults["--ring-controller"],
        gres=defaults["--gres"],
        runtime_class=given.get("--runtime-class"),
        restarts=given.get("--restarts", 0),
    )


def _needs(to: str, job: Submission) -> None:
    """Raises ConfigError for what this target cannot do without."""
    if to in _PODS and job.image is None:
        raise ConfigError(f"--to {to} needs --image", hint="Build and push one: see Dockerfile.ascend.")
    if to == "shell" and job.hosts > 1 and job.address is None:
        raise ConfigError(
            "--to shell with several --hosts needs --master-addr", hint="The address of the host that gets number 0."
        )
    if to == "shell" and job.hosts == 1 and job.address is not None:
        raise ConfigError("--master-addr: there is only one host; it goes with --hosts")


def _manifest(job: Submission) -> str:
    return f"# petrun job {job.name}. Submit it with: kubectl apply -f FILE\n{to_yaml(volcano(job))}"


def _manifest_of_operator(job: Submission) -> str:
    return f"# petrun job {job.name}. Submit it with: kubectl apply -f FILE\n{to_yaml(ascend_job(job))}"
