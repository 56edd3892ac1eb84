"""`petrun resume`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from petrun.cli import cluster, options
from petrun.cli.options import given, split_list
from petrun.cli.signals import told_apart
from petrun.errors import ConfigError


def resume(
    context: typer.Context,
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run that did not finish.")],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Do the last steps once more, from the state before them, and compare every bit."
        ),
    ] = False,
    allow: options.Allow = None,
    save_every: options.SaveEvery = None,
    keep: options.Keep = None,
    max_time: options.MaxTime = None,
    on_nan: options.OnNan = None,
    spike: options.Spike = None,
    settings: options.Set = None,
    cards: cluster.Cards = None,
    hosts: cluster.Hosts = None,
    host_rank: cluster.HostRank = None,
    master_addr: cluster.MasterAddr = None,
    master_port: cluster.MasterPort = None,
    rank_table: cluster.RankTable = None,
    max_restarts: cluster.MaxRestarts = None,
    grace: cluster.Grace = None,
    log_dir: cluster.LogDir = None,
) -> None:
    """Go on with a run that was stopped or killed, as if it had not been: to the bit, on the CPU.

    The folder says everything. Other settings or data than the run was begun with are refused, key by key, unless --allow names them. A
    run of several ranks needs as many again, started as `petrun train` starts them.

        petrun resume runs/lora-1
        petrun resume runs/lora-2 --cards 8
    """
    typed = locals()
    flags: dict[str, tuple[str, Any]] = given(options.saving(save_every, keep, max_time, on_nan, spike))
    asked = cluster.given_flags(typed)
    if asked and verify:
        raise ConfigError(f"--verify: goes on in this process alone, without {cluster.flag(next(iter(asked)))}")
    allowed = split_list(allow) or []
    if asked:
        said = (None, flags, settings or [])
        if (code := cluster.launch(context, asked, said, resume=run_folder, allowed=allowed)) is not None:
            raise typer.Exit(code)
    with told_apart():
        # Imported here so that --help does not wait for MindSpore.
        from petrun.commands.resume import run

        run(run_folder, flags, settings or [], allow=allowed, verify=verify)
