"""`petrun job`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from petrun.cli import train
from petrun.cli.options import Text, Texts, Whole, option
from petrun.cluster.jobs.table import SCHEDULERS
from petrun.errors import ConfigError

NODE = "Of each host"
CLUSTER = "Cluster"
_OURS = ("--cards", "--hosts", "--host-rank", "--master-addr", "--master-port", "--rank-table")


def job(
    line: Annotated[
        list[str], typer.Argument(help="After --: what follows `petrun train`.", metavar="-- TRAIN OPTIONS...")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help=f"Scheduler: {'; '.join(f'{one.name}: {one.about}' for one in SCHEDULERS.values())}.",
            autocompletion=lambda incomplete: [one for one in SCHEDULERS if one.startswith(incomplete)],
        ),
    ],
    name: Annotated[Text, option("--name", "The job's name. Default petrun.")] = None,
    cards: Annotated[Whole, option("--cards", "Cards of all hosts together. Default 1.")] = None,
    hosts: Annotated[Whole, option("--hosts", "Hosts; each gives as many cards. Default 1.")] = None,
    master_addr: Annotated[Text, option("--master-addr", "shell: address of host 0.")] = None,
    master_port: Annotated[Whole, option("--master-port", "Port on host 0 where the ranks meet.")] = None,
    setup: Annotated[
        Texts, option("--setup", "A line of shell before the job, such as `source set_env.sh`. Repeatable.")
    ] = None,
    workdir: Annotated[Text, option("--workdir", "Folder that the job runs in. In the image: /work.")] = None,
    memory: Annotated[Text, option("--memory", "Memory, such as 512G; not for shell.", NODE)] = None,
    cpus: Annotated[
        Whole, option("--cpus", "Processor cores; not for shell. slurm: default 8 for each card.", NODE)
    ] = None,
    queue: Annotated[Text, option("--queue", "Queue; slurm: partition.", CLUSTER)] = None,
    time: Annotated[Text, option("--time", "Longest run: 90m, 12h, 2d, 1-12:00:00; not for shell.", CLUSTER)] = None,
    restarts: Annotated[
        Whole,
        option(
            "--restarts",
            "volcano, slurm: start the whole job again up to this often where it fails, a host is lost or its time is up (slurm); it goes "
            "on from its newest state. Default 0. --max-restarts after -- starts the ranks again within the job.",
            CLUSTER,
        ),
    ] = None,
    gres: Annotated[Text, option("--gres", "slurm: what the cards are called there. Default npu.", CLUSTER)] = None,
    image: Annotated[Text, option("--image", "Kubernetes: image, such as Dockerfile.ascend builds.", CLUSTER)] = None,
    mount: Annotated[
        Texts,
        option(
            "--mount",
            "Kubernetes: /FOLDER:/PATH, /FOLDER:/PATH:ro, pvc/CLAIM:/PATH, or image:/PATH for what the image holds. Repeatable.",
            CLUSTER,
        ),
    ] = None,
    namespace: Annotated[Text, option("--namespace", "Kubernetes: namespace of the job.", CLUSTER)] = None,
    node_selector: Annotated[
        Texts,
        option(
            "--node-selector",
            "Kubernetes: label of the nodes, such as accelerator-type=module-910b-8. Repeatable.",
            CLUSTER,
            metavar="KEY=VALUE",
        ),
    ] = None,
    ring_controller: Annotated[
        Text,
        option("--ring-controller", "Kubernetes: label that says what cards they are. Default ascend-910b.", CLUSTER),
    ] = None,
    runtime_class: Annotated[
        Text, option("--runtime-class", "Kubernetes: runtimeClassName of the pods, such as ascend.", CLUSTER)
    ] = None,
    out: Annotated[Text, option("--out", "Write to this file instead of printing.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out.")] = False,
) -> None:
    """Write the manifest or script that submits a training job; its command line is checked first.

    petrun job --to slurm --cards 16 --hosts 2 --out job.sh -- --algo lora --rank 8 --base ./llama --data train.jsonl
    """
    arguments, values = _train_line(line)
    from petrun.commands.job import TrainLine, run

    options = {
        "--name": name,
        "--cards": cards,
        "--hosts": hosts,
        "--master-addr": master_addr,
        "--master-port": master_port,
        "--setup": setup,
        "--workdir": workdir,
        "--memory": memory,
        "--cpus": cpus,
        "--queue": queue,
        "--time": time,
        "--gres": gres,
        "--restarts": restarts,
        "--image": image,
        "--mount": mount,
        "--namespace": namespace,
        "--node-selector": node_selector,
        "--ring-controller": ring_controller,
        "--runtime-class": runtime_class,
    }
    flags, sets = train.train_flags(values), values["settings"] or []
    typed = TrainLine(
        arguments=arguments,
        recipe=values["recipe"],
        flags=flags,
        sets=sets,
        grace_seconds=values.get("grace"),
    )
    run(to, typed, options, out=out, force=force)


def _train_line(line: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments of `petrun train`, and what they mean. Raises ConfigError, or what the parser of the command line raises."""
    arguments = list(line)
    for word in ("petrun", "train"):
        if arguments[:1] == [word]:
            del arguments[0]
    ours = [flag for flag in _OURS if any(word == flag or word.startswith(f"{flag}=") for word in arguments)]
    if ours:
        raise ConfigError(
            f"{', '.join(ours)} after --: each host gets its own",
            hint="Give --cards, --hosts and --master-port before --; the rest is written by petrun job.",
        )
    alone = typer.Typer(add_completion=False)
    alone.command("train")(train.train)
    command = typer.main.get_command(alone)
    return arguments, command.make_context("petrun train", arguments.copy()).params
