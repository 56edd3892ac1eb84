"""Write docs/reference.md: every command with its options, every setting with its type, default and unit, as the program declares them.

python scripts/make_reference.py            # writes the page
python scripts/make_reference.py --check    # ends with 1 where the page differs
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from petrun.cli.app import app
from petrun.cli.command import Command, CommandOption, LazyCommand
from petrun.config.flags import DELTA_FLAGS, method_names
from petrun.config.schema import RunConfig
from petrun.config.section import Section

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

UNITS = {
    "data.eval_split": "share of the rows",
    "data.seq_len": "tokens",
    "data.max_rows": "rows of each file",
    "data.buckets": "lengths",
    "data.weights": "times an epoch",
    "data.shares": "of the rows",
    "optim.warmup": "share of the steps, or steps",
    "optim.min_lr_ratio": "share of lr",
    "train.epochs": "passes over the data",
    "train.steps": "optimizer steps",
    "train.batch_size": "rows",
    "train.accumulate": "micro-batches",
    "train.eval_every_steps": "optimizer steps",
    "train.patience": "evaluations",
    "train.save_every_steps": "optimizer steps",
    "train.keep_states": "states",
    "train.max_seconds": "seconds, or as 1h30m",
    "train.spike_ratio": "times the mean loss",
    "preference.label_smoothing": "share of the rows",
    "image.resolution": "pixels",
    "image.min_snr": "signal-to-noise ratio",
    "image.offset_noise": "share of the noise",
    "parallel.card_memory": "GiB",
    "parallel.dp": "ranks",
    "parallel.tp": "ranks",
    "parallel.pp": "stages",
    "parallel.micro_batches": "parts of a batch",
    "eval.batch_size": "rows",
    "eval.max_new_tokens": "tokens",
    "eval.samples": "prompts",
}
"""Units of the settings that are numbers."""

PLAIN_NUMBERS = {
    *("optim.lr", "optim.beta1", "optim.beta2", "optim.eps", "optim.weight_decay", "optim.clip", "train.seed", "train.loss_scale",),
    *("train.neftune_alpha", "preference.beta", "preference.gamma", "preference.sft_weight", "parallel.zero"),
    *("preference.desirable_weight", "preference.undesirable_weight"),
}  # fmt: skip
"""Settings that are numbers without a unit."""

HEAD = """# Reference: commands, options, settings

`python scripts/make_reference.py` writes this page from the program itself, and `tests/test_reference.py` holds both equal.
Examples of the commands are in [commands.md](commands.md).

- An option that sets a key of a recipe is listed once, [with the key](#settings); the other options stand with their command.
- `--set KEY=VALUE` sets any key, over recipe and flags. A recipe is a YAML file of these keys, as `optim: {lr: 0.001}`.
- Exit codes: 0 all went well, 1 an error, 2 a wrong command line or setting, 130 and 143 stopped by Ctrl-C or SIGTERM.
- `--debug`, on any line, adds the traceback to an error.
- `--quiet`, on any line, prints results, notes and errors alone: no plan, no steps, no progress, no files that were written.
"""


def cell(text: str) -> str:
    """Return a text as it stands in a cell of a table: on one line, with the marks of Markdown as they are."""
    return " ".join(text.split()).replace("|", r"\|").replace("*", r"\*").replace("<", "&lt;")


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table of Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def commands_of(node: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Command[Any]]]:
    """Yield (words, command) for every command of the program, in the order of `petrun --help`."""
    if isinstance(node, LazyCommand):
        yield " ".join(words), node.source
    for name, inner in getattr(node, "commands", {}).items():
        yield from commands_of(inner, (*words, name))


def value_of(one: CommandOption) -> str:
    """Return what stands behind an option: the kind of its value; nothing behind a switch."""
    if one.is_switch:
        return ""
    if one.option.metavar:
        return cell(one.option.metavar)
    kinds = [kind for kind in get_args(one.annotation) if kind is not type(None)] or [one.annotation]
    name = getattr(kinds[0], "__name__", str(kinds[0]))
    return {"str": "text", "int": "number", "float": "number", "Path": "path", "list": "text"}.get(name, name)


def command_text(words: str, command: Command[Any]) -> str:
    """Return the part of the page about one command: its help, and its options."""
    own = [one for one in command.given if not one.key]
    keys = [f"`{one.option.flag.partition('/')[0]}`" for one in command.given if one.key]
    arguments = [one.option.metavar or one.name.upper() for one in own if not one.option.flag]
    parts = [
        f"### petrun {words}\n",
        f"    {' '.join(['petrun', words, '[OPTIONS]', *arguments])}\n",
        re.sub(r"^petrun ", "    petrun ", inspect.getdoc(command.run) or "", flags=re.MULTILINE) + "\n",
    ]
    rows = [[f"`{one.option.flag or one.name.upper()}`", value_of(one), cell(one.option.help)] for one in own]
    if rows:
        parts.append(table(["option", "value", "meaning"], rows))
    if keys:
        parts.append(f"Options that set keys of a recipe: {', '.join(keys)}.\n")
    return "\n".join(parts)


def kind_of(annotation: Any) -> str:
    """Return the type of a setting in words: `int`, `list of str`, or the words that are allowed."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(kind_of(part) for part in inner if part is not type(None))
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in inner)
    if origin is tuple:
        return f"list of {kind_of(inner[0])}"
    if origin is dict or not isinstance(annotation, type):
        return "object"
    return annotation.__name__


def default_of(info: FieldInfo) -> str:
    """Return the default as it is written in a recipe."""
    value = info.get_default(call_default_factory=True)
    if value in ((), {}):
        return "none"
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def bounds_of(info: FieldInfo) -> str:
    """Return the bounds of a number: `>= 1`."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {getattr(rule, name)}" for rule in info.metadata for name, sign in signs.items() if hasattr(rule, name)
    ]
    return cell(", ".join(found))


def setting_row(key: str, info: FieldInfo) -> list[str]:
    """Return the row of one key of a recipe. Raises SystemExit for a number of which no unit is known."""
    kind = kind_of(info.annotation)
    numeric = re.search(r"\b(int|float)\b", kind)
    if numeric and key not in UNITS and key not in PLAIN_NUMBERS and not key.startswith("delta."):
        raise SystemExit(
            f"{key} is a number: name its unit in UNITS of scripts/make_reference.py, or put it among PLAIN_NUMBERS"
        )
    extra = info.json_schema_extra
    flag = f"`{extra['flag']}`" if isinstance(extra, dict) and "flag" in extra else ""
    text = (info.description or "").replace("{names}", ", ".join(method_names()))
    limits = ", ".join(filter(None, [kind, bounds_of(info)]))
    return [f"`{key}`", flag, limits, default_of(info), UNITS.get(key, ""), cell(text)]


def settings_text() -> str:
    """Return the part of the page about the keys of a recipe, a section after another."""
    heads = ["key", "option", "type, bounds", "default", "unit", "meaning"]
    alone = [setting_row(key, info) for key, info in RunConfig.model_fields.items() if not _is_section(info)]
    parts = [
        "## Settings\n",
        "An empty default means that the setting was not asked for: it does as its meaning says.\n",
        table(heads, alone),
    ]
    for name, info in RunConfig.model_fields.items():
        if not _is_section(info) or name == "delta":
            continue
        section: Any = info.annotation
        rows = [setting_row(f"{name}.{key}", one) for key, one in section.model_fields.items()]
        whole = [table(heads, [setting_row(name, info)])] if info.description else []
        parts += [f"### {name}\n", *whole, table(heads, rows)]
    return "\n".join(parts)


def _is_section(info: FieldInfo) -> bool:
    kind = info.annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel) and (issubclass(kind, Section) or kind is BaseModel)


def methods_text() -> str:
    """Return the part of the page about the algorithms' own settings."""
    from petrun.delta import METHODS

    parts = [
        "## Settings of the algorithms\n",
        "They are keys of the section `delta`: `--set delta.variant=dora`. [methods.md](methods.md) says which algorithm does what.\n",
    ]
    for name, method in METHODS.items():
        rows = []
        for key, info in method.config.model_fields.items():
            _, flag, limits, default, _, meaning = setting_row(f"delta.{key}", info)
            known = DELTA_FLAGS.get(f"delta.{key}")
            rows.append([f"`delta.{key}`", f"`{known[1].flag}`" if known else flag, limits, default, meaning])
        text = table(["key", "option", "type, bounds", "default", "meaning"], rows) if rows else "It has none.\n"
        parts += [f"### {name}\n", f"Learning rate by default: `{method.default_lr:g}`.\n", text]
    return "\n".join(parts)


def page() -> str:
    """Return the whole page."""
    commands = [command_text(words, command) for words, command in commands_of(typer.main.get_command(app))]
    return "\n".join([HEAD, "## Commands\n", *commands, settings_text(), methods_text()])


def main() -> None:
    parser = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[__name__]))
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    text = page()
    if parser.parse_args().check:
        sys.exit(
            0
            if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
            else f"{PAGE} is old: python scripts/make_reference.py"
        )
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
