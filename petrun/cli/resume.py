"""`petrun resume`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from petrun.cli import options
from petrun.cli.options import given, split_list
from petrun.cli.signals import told_apart


def resume(
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
) -> None:
    """Go on with a run that was stopped or killed, as if it had not been: to the bit, on the CPU.

    The folder says everything. Other settings or data than the run was begun with are refused, key by key, unless --allow names them.

        petrun resume runs/lora-1
    """
    flags: dict[str, tuple[str, Any]] = given(options.saving(save_every, keep, max_time, on_nan, spike))
    with told_apart():
        # Imported here so that --help does not wait for MindSpore.
        if verify:
            from petrun.runs.verify import run as replay

            replay(run_folder, settings or [])
            return
        from petrun.runs.train import run

        run(None, flags, settings or [], resume=run_folder, allow=split_list(allow) or [])
