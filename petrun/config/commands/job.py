"""`petrun job`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields

from petrun.cluster.jobs.table import SCHEDULERS
from petrun.config.commands.train import TrainSettings
from petrun.config.options import CLUSTER, argument, option, option_of
from petrun.typing import JsonObject

HOST = "Of each host"


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """The job that is written; None: not given."""

    line: tuple[str, ...] = argument("After --: what follows `petrun train`.", metavar="-- TRAIN OPTIONS...")
    to: str = option(
        "--to",
        f"Scheduler: {'; '.join(f'{one.name}: {one.about}' for one in SCHEDULERS.values())}.",
        default=MISSING,
        choices=lambda: SCHEDULERS,
        shows_default=True,
    )
    name: str | None = option("--name", "The job's name. Default petrun.")
    cards: int | None = option("--cards", "Cards of all hosts together. Default 1.")
    hosts: int | None = option("--hosts", "Hosts; each gives as many cards. Default 1.")
    master_addr: str | None = option("--master-addr", "shell: address of host 0.")
    master_port: int | None = option("--master-port", "Port on host 0 where the ranks meet.")
    setup: tuple[str, ...] = option(
        "--setup", "A line of shell before the job, such as `source set_env.sh`. Repeatable.", default=()
    )
    workdir: str | None = option("--workdir", "Folder that the job runs in. In the image: /work.")
    memory: str | None = option("--memory", "Memory, such as 512G; not for shell.", HOST)
    cpus: int | None = option("--cpus", "Processor cores; not for shell. slurm: default 8 for each card.", HOST)
    queue: str | None = option("--queue", "Queue; slurm: partition.", CLUSTER)
    time: str | None = option("--time", "Longest run: 90m, 12h, 2d, 1-12:00:00; not for shell.", CLUSTER)
    restarts: int | None = option(
        "--restarts",
        "volcano, slurm: start the whole job again up to this often where it fails, a host is lost or its time is up (slurm); it goes "
        "on from its newest state. Default 0. --max-restarts after -- starts the ranks again within the job.",
        CLUSTER,
    )
    gres: str | None = option("--gres", "slurm: what the cards are called there. Default npu.", CLUSTER)
    image: str | None = option("--image", "Kubernetes: image, such as Dockerfile.ascend builds.", CLUSTER)
    mount: tuple[str, ...] = option(
        "--mount",
        "Kubernetes: /FOLDER:/PATH, /FOLDER:/PATH:ro, pvc/CLAIM:/PATH, or image:/PATH for what the image holds. Repeatable.",
        CLUSTER,
        default=(),
    )
    namespace: str | None = option("--namespace", "Kubernetes: namespace of the job.", CLUSTER)
    node_selector: tuple[str, ...] = option(
        "--node-selector",
        "Kubernetes: label of the nodes, such as accelerator-type=module-910b-8. Repeatable.",
        CLUSTER,
        default=(),
        metavar="KEY=VALUE",
    )
    ring_controller: str | None = option(
        "--ring-controller", "Kubernetes: label that says what cards they are. Default ascend-910b.", CLUSTER
    )
    runtime_class: str | None = option(
        "--runtime-class", "Kubernetes: runtimeClassName of the pods, such as ascend.", CLUSTER
    )
    out: str | None = option("--out", "Write to this file instead of printing.")
    force: bool = option("--force", "Replace the file of --out.", default=False)

    def given(self) -> JsonObject:
        """The flags of the job itself that were given: {"--cards": 8}."""
        own = [(how.flag, getattr(self, one.name)) for one in fields(self) if (how := option_of(one)) is not None]
        outside = ("", "--to", "--out", "--force")
        return {flag: value for flag, value in own if flag not in outside and value not in (None, ())}


@dataclass(frozen=True, kw_only=True)
class TrainLine:
    """A command line of `petrun train`: as typed, and what it means."""

    arguments: Sequence[str]
    settings: TrainSettings
