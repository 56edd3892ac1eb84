"""`petrun job`: the manifest or script that submits a training job."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petrun.assets import default_recipe
from petrun.config.load import load_run_config, to_yaml
from petrun.config.schema import ParallelConfig
from petrun.errors import ConfigError, did_you_mean
from petrun.parallel.job_scripts import shell, slurm
from petrun.parallel.job_volcano import WORKDIR, volcano
from petrun.parallel.layout import settle
from petrun.parallel.submission import Submission, check, lies_in, parse_memory, parse_mount, parse_time
from petrun.runs.rank_table import write_new
from petrun.train.report import say

_BOTH = ("volcano", "slurm")
TARGETS = (*_BOTH, "shell")
_ONLY = {
    "--image": ("volcano",),
    "--namespace": ("volcano",),
    "--mount": ("volcano",),
    "--node-selector": ("volcano",),
    "--ring-controller": ("volcano",),
    "--gres": ("slurm",),
    "--queue": _BOTH,
    "--time": _BOTH,
    "--memory": _BOTH,
    "--cpus": _BOTH,
    "--restarts": _BOTH,
    "--master-addr": ("shell",),
}
_NEXT = {"volcano": "kubectl apply -f {}", "slurm": "sbatch {}", "shell": "bash {}"}


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
    _check_layout(config.parallel, job.cards)
    _needs(to, job, config.out.dir or "runs")
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
    text = {"volcano": _manifest, "slurm": slurm, "shell": shell}[to](job)
    if out is None:
        say(text.rstrip("\n"))
        return
    path = write_new("--out", out, text, force, [])
    numbered = " HOST_RANK" if to == "shell" and job.hosts > 1 else ""
    say(f"wrote {path}; start it with: {_NEXT[to].format(path)}{numbered}")


def _check_layout(asked: ParallelConfig, cards: int) -> None:
    """Raises ConfigError where the layout does not fit the cards."""
    settle(
        cards,
        dp=asked.dp,
        tp=asked.tp,
        pp=asked.pp,
        zero=asked.zero,
        micro_batches=asked.micro_batches,
        sequence=asked.sequence,
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
        restarts=given.get("--restarts", 0),
    )


def _needs(to: str, job: Submission, out: str) -> None:
    """Raises ConfigError for what this target cannot do without."""
    if to == "volcano":
        if job.image is None:
            raise ConfigError("--to volcano needs --image", hint="Build and push one: see Dockerfile.ascend.")
        workdir = job.workdir or WORKDIR
        if not lies_in(out, job.mounts, workdir):
            raise ConfigError(
                f"what the job saves, in {out} below {workdir}, lies in no --mount that can be written: it is gone with the pod",
                hint=f"Example: --mount pvc/results:{workdir}",
            )
    if to == "shell" and job.hosts > 1 and job.address is None:
        raise ConfigError(
            "--to shell with several --hosts needs --master-addr", hint="The address of the host that gets number 0."
        )
    if to == "shell" and job.hosts == 1 and job.address is not None:
        raise ConfigError("--master-addr: there is only one host; it goes with --hosts")


def _manifest(job: Submission) -> str:
    return f"# petrun job {job.name}. Submit it with: kubectl apply -f FILE\n{to_yaml(volcano(job))}"
