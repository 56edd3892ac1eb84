"""The Typer root: collects the commands, and turns a PetrunError into a message and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import types
from typing import Annotated

import typer

from petrun import __version__, console
from petrun.cli import (
    algorithms,
    data,
    delta,
    doctor,
    embed,
    evaluate,
    export,
    faults,
    generate,
    inspect,
    job,
    merge,
    mindpet,
    plan,
    predict,
    quantize,
    ranktable,
    recipes,
    rehearse,
    report,
    reshard,
    resume,
    schema,
    serve,
    signals,
    sweep,
    train,
    vocab,
)
from petrun.cli.command import ANYWHERE
from petrun.errors import PetrunError
from petrun.mindspore_messages import first_line, keep_quiet
from petrun.train.stop import Stopped

app = typer.Typer(
    name="petrun",
    help="Parameter-efficient fine-tuning on MindSpore: train a small delta on a frozen base, then evaluate, merge or predict with both.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `petrun train --algo lora --rank 8`: it needs no files. `petrun recipes ls` shows complete examples.",
)
for _command in (
    train.COMMAND,
    plan.COMMAND,
    resume.COMMAND,
    sweep.COMMAND,
    report.REPORT,
    report.WATCH,
    evaluate.COMMAND,
    merge.MERGE,
    merge.UNMERGE,
    export.COMMAND,
    quantize.COMMAND,
    predict.COMMAND,
    generate.COMMAND,
    serve.COMMAND,
    embed.COMMAND,
    reshard.COMMAND,
    inspect.COMMAND,
    algorithms.COMMAND,
    doctor.COMMAND,
    schema.COMMAND,
):
    _command.add_to(app, "Commands")
app.add_typer(data.app, name="data", rich_help_panel="Commands")
app.add_typer(vocab.app, name="vocab", rich_help_panel="Commands")
app.add_typer(delta.app, name="delta", rich_help_panel="Commands")
app.add_typer(recipes.app, name="recipes", rich_help_panel="Commands")
app.add_typer(mindpet.app, name="mindpet", rich_help_panel="Commands")
rehearse.COMMAND.add_to(app, "Cluster")
job.COMMAND.add_to(app, "Cluster")
app.add_typer(ranktable.app, name="ranktable", rich_help_panel="Cluster")


def _version(shown: bool) -> None:
    if shown:
        console.print(f"petrun {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere on the line.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            help="Print results, notes and errors alone: no plan, no progress. May stand anywhere on the line.",
        ),
    ] = False,
) -> None:
    pass


def _unexpected(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Print an unexpected error as one line that a user can report, instead of a traceback."""
    _trace_of_rank(error)
    hint = "" if _is_rank() else "This is a fault of petrun. Run again with --debug for the traceback."
    console.print_error(f"{kind.__name__}: {first_line(str(error))}", hint, label="internal error")


def _is_rank() -> bool:
    """Return whether this process is a rank of a job, whose output is a log."""
    return "MS_ROLE" in os.environ or "RANK_TABLE_FILE" in os.environ


def _trace_of_rank(error: BaseException) -> None:
    """Print the full traceback in a rank's log: nobody starts a job of many cards again for it."""
    if _is_rank():
        traceback.print_exception(error)


def main() -> None:
    """Entry point of the `petrun` program."""
    debug = "--debug" in sys.argv[1:]
    keep_quiet(debug)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot show must not end a run. A log file or a pipe gets each line when it is printed.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    signals.install()
    try:
        _run(_own_switches(sys.argv[1:]))
    except BrokenPipeError:
        # The reader of our output went away (`petrun ... | head`): end as programs do then, and flush stdout into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except Stopped as stopped:
        console.print_to_stderr("interrupted")
        signals.retire(128 + stopped.number)
        sys.exit(128 + stopped.number)
    except PetrunError as error:
        if debug:
            raise
        console.print_error(error.message, error.hint)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        console.print_error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
    except RuntimeError as error:
        told = faults.as_petrun_error(error)
        if told is None or debug:
            raise
        _trace_of_rank(error)
        console.print_error(told.message, told.hint)
        sys.exit(1)
    except MemoryError:
        if debug:
            raise
        console.print_error("there is not enough memory", "Try a smaller --batch-size or --seq-len.")
        sys.exit(1)
    finally:
        ended = sys.exc_info()[1]
        code = ended.code if isinstance(ended, SystemExit) else int(ended is not None)
        signals.retire(code if isinstance(code, int) else 0)
        # Handle errors that no clause above catches. Set here because MindSpore sets a hook of its own when it is imported.
        if not debug:
            sys.excepthook = _unexpected


def _own_switches(arguments: list[str]) -> list[str]:
    """Take the switches that may stand anywhere out of the line, and set --quiet. MindPet's commands have a --quiet of their own."""
    own = ANYWHERE - {"--quiet"} if "mindpet" in arguments[:1] else ANYWHERE
    end = arguments.index("--") if "--" in arguments else len(arguments)
    console.set_results_only("--quiet" in own and "--quiet" in arguments[:end])
    return [word for word in arguments[:end] if word not in own] + arguments[end:]


def _run(arguments: list[str]) -> None:
    """Run a command, and flush its output while an error can still be reported."""
    try:
        app(args=arguments, prog_name="petrun")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        raise
    finally:
        sys.stdout.flush()
