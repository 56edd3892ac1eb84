"""Define a training job for a scheduler: the command, the cards and hosts, and the memory and cores of each host."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from petrun.cluster.jobs.mounts import Mount, is_clean_path, parse_mount
from petrun.errors import ConfigError
from petrun.typing import JsonObject

# A name that Kubernetes accepts for a service, by which the job's hosts find one another; Slurm and files accept it as well.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_QUEUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]*[A-Za-z0-9])?")
_LABEL = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?=[A-Za-z0-9._-]+")
_PATH = re.compile(r"/[A-Za-z0-9._+@/-]*")
_MOST_RESTARTS = 1000
_UNITS = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The values of a manifest or script, checked by `check`."""

    name: str
    command: tuple[str, ...]
    """Arguments of `petrun train`, without those that say which host of which cluster it is on."""
    cards: int
    hosts: int = 1
    port: int | None = None
    address: str | None = None
    """The address of host 0, for a scheduler that does not tell it."""
    image: str | None = None
    queue: str | None = None
    time_seconds: int | None = None
    memory: str | None = None
    """The memory of each host, such as 512G."""
    cpus: int | None = None
    """The processor cores of each host."""
    mounts: tuple[Mount, ...] = ()
    workdir: str | None = None
    setup: tuple[str, ...] = ()
    """Lines of shell before the job, as the user wrote them."""
    grace_seconds: int = 30
    namespace: str | None = None
    node_labels: tuple[str, ...] = ()
    ring_controller: str = "ascend-910b"
    gres: str = "npu"
    runtime_class: str | None = None
    """The runtimeClassName of the pods (Kubernetes)."""
    restarts: int = 0
    """How many times the scheduler starts the whole job again where it fails; it resumes from its newest state."""

    @property
    def cards_per_host(self) -> int:
        return self.cards // self.hosts


def check(job: Submission) -> None:
    """Raises ConfigError with every value that a scheduler would refuse, or would read as something else than text."""
    problems = list(_wrong(job))
    if problems:
        raise ConfigError("\n".join(problems))


def _wrong(job: Submission) -> Iterator[str]:
    patterns = (
        ("--name", job.name, _NAME, "1 to 40 small letters, digits and -, and starts with a letter"),
        ("--image", job.image, _IMAGE, "an image's name, such as registry/petrun:1"),
        ("--queue", job.queue, _QUEUE, "a queue's name: letters, digits, . _ -"),
        ("--namespace", job.namespace, _NAME, "small letters, digits and -"),
        ("--master-addr", job.address, _HOST, "a host's name or address"),
        ("--runtime-class", job.runtime_class, _NAME, "a RuntimeClass's name, such as ascend"),
        ("--ring-controller", job.ring_controller, _QUEUE, "a label's value, such as ascend-910b"),
        ("--gres", job.gres, _QUEUE, "a name of `scontrol show config`'s GresTypes, such as npu"),
        *(("--node-selector", label, _LABEL, "KEY=VALUE, a label of nodes") for label in job.node_labels),
    )
    for flag, value, pattern, form in patterns:
        if value is not None and pattern.fullmatch(value) is None:
            yield f"{flag} {value!r}: must be {form}"
    for flag, number in (("--cards", job.cards), ("--hosts", job.hosts), ("--cpus", job.cpus)):
        if number is not None and number < 1:
            yield f"{flag} {number}: must be at least 1"
    if job.hosts > 0 and job.cards % job.hosts:
        near = max(1, round(job.cards / job.hosts)) * job.hosts
        yield f"--cards {job.cards}: must be a multiple of --hosts {job.hosts}: cards of all hosts together. Try --cards {near}"
    if not 0 <= job.restarts <= _MOST_RESTARTS:
        yield f"--restarts {job.restarts}: must be between 0 and {_MOST_RESTARTS}"
    if job.port is not None and not 0 < job.port < 65536:
        yield f"--master-port {job.port}: must be between 1 and 65535"
    # It is part of an #SBATCH line, which is not shell and has no quoting.
    if job.workdir is not None and not (is_clean_path(job.workdir) and _PATH.fullmatch(job.workdir)):
        yield f"--workdir {job.workdir!r}: must be an absolute path of letters, digits and . _ - + @ /"
    targets = [mount.target for mount in job.mounts]
    for target in {target for target in targets if targets.count(target) > 1}:
        yield f"--mount: {target} is mounted twice"


def parse_time(text: str) -> int:
    """Parse `2-12:00:00`, `12:00:00`, `90m`, `12h` or `2d` to seconds. Raises ConfigError."""
    short = re.fullmatch(r"(\d{1,6})([mhd])", text)
    long = re.fullmatch(r"(?:(\d{1,4})-)?(\d{1,4}):(\d\d):(\d\d)", text)
    seconds = 0
    if short:
        seconds = int(short[1]) * _UNITS[short[2]]
    elif long:
        days, hours, minutes, rest = (int(part or 0) for part in long.groups())
        seconds = days * 86400 + hours * 3600 + minutes * 60 + rest
    if seconds < 60:
        raise ConfigError(f"--time {text}: must be such as 90m, 12h, 2d or 1-12:00:00, and a minute at least")
    return seconds


def parse_memory(text: str) -> str:
    """Parse `512G`, `512Gi`, `1T` to 512G, 512G, 1T; units of 1024. Raises ConfigError."""
    match = re.fullmatch(r"([1-9]\d{0,7})([MGT])i?", text)
    if match is None:
        raise ConfigError(f"--memory {text}: must be such as 512G, of each host")
    return match[1] + match[2]


def make_submission(command: Sequence[str], options: JsonObject, grace_seconds: float | None) -> Submission:
    """Make a checked job. `command`: arguments of `petrun train`. `options`: option of `petrun job` -> its value, only those that were
    given.

    Raises ConfigError with every wrong value.
    """
    time, memory = options.get("--time"), options.get("--memory")
    job = Submission(
        name=options.get("--name", "petrun"),
        command=tuple(command),
        cards=options.get("--cards", 1),
        hosts=options.get("--hosts", 1),
        port=options.get("--master-port"),
        address=options.get("--master-addr"),
        image=options.get("--image"),
        queue=options.get("--queue"),
        time_seconds=None if time is None else parse_time(time),
        memory=None if memory is None else parse_memory(memory),
        cpus=options.get("--cpus"),
        mounts=tuple(parse_mount(text) for text in options.get("--mount", ())),
        workdir=options.get("--workdir"),
        setup=tuple(options.get("--setup", ())),
        grace_seconds=math.ceil(30 if grace_seconds is None else grace_seconds),
        namespace=options.get("--namespace"),
        node_labels=tuple(options.get("--node-selector", ())),
        ring_controller=options.get("--ring-controller", "ascend-910b"),
        gres=options.get("--gres", "npu"),
        runtime_class=options.get("--runtime-class"),
        restarts=options.get("--restarts", 0),
    )
    check(job)
    return job
