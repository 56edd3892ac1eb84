"""The flag of a run's setting, as an option of the command line: read from the schema, which imports pydantic."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin

from petrun.config.choices import run_choices
from petrun.config.options import DELTA, Option
from petrun.config.schema import RunConfig
from petrun.config.section import Section

DELTA_FLAGS: dict[str, tuple[type, Option]] = {
    "delta.rank": (
        int,
        Option(
            flag="--rank",
            help="Rank of LoRA, AdaLoRA, LoHa and LoKr, default 8; of VeRA, default 256; of MiSS, default 64.",
            panel=DELTA,
        ),
    ),
    "delta.alpha": (
        float,
        Option(
            flag="--alpha",
            help="Scale of LoRA, AdaLoRA, LoHa and LoKr: the update is multiplied by alpha / rank. Default 16.",
            panel=DELTA,
        ),
    ),
    "delta.dropout": (
        float,
        Option(
            flag="--dropout",
            help="Dropout of LoRA, AdaLoRA, VeRA, MiSS, prefix, ptuning2 and ptuning while training. Default 0.",
            panel=DELTA,
        ),
    ),
    "delta.tokens": (
        int,
        Option(
            flag="--tokens", help="Virtual tokens of prefix, ptuning2, prompt and ptuning. Default 20.", panel=DELTA
        ),
    ),
    "delta.target": (
        str,
        Option(
            flag="--target",
            help="Layers to adapt, comma-separated: roles (q,v), Hugging Face names (query,value), globs over full paths "
            "('layers.*.attn.*'), or all-linear. Default: the family's (q,v; gpt2, bloom, chatglm and phi3 qkv).",
            panel=DELTA,
            separated=True,
        ),
    ),
    "delta.exclude": (
        str,
        Option(
            flag="--exclude",
            help="Layers to take away from --target, in the same terms.",
            panel=DELTA,
            separated=True,
        ),
    ),
    "delta.rows": (
        str,
        Option(
            flag="--train-rows",
            help="Train rows of the token table beside --algo: new (those that petrun vocab merge appended), or ids such as "
            "7,120-199. The same as --algo NAME+rows.",
            panel=DELTA,
        ),
    ),
}
"""The keys of delta algorithms that have a flag, with the type of one value.

They repeat what the algorithms' own fields say: `--help` must not import MindSpore, and a flag speaks for the fields of several
algorithms at once. tests/config/test_flags.py holds both equal.
"""

_PLAIN = (bool, int, float)


def method_names() -> list[str]:
    """Names of petrun.delta.METHODS, sorted. They are read from its source: importing it takes as long as MindSpore does."""
    source = Path(__file__).resolve().parent.parent / "delta" / "__init__.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.value, ast.Dict)
            and ast.unparse(node.target) == "METHODS"
        ):
            return sorted(ast.literal_eval(key) for key in node.value.keys if key is not None)
    raise AssertionError(f"{source} has no table METHODS")


def annotation_of(key: str) -> object:
    """The type of a key, such as `optim.schedule`. Raises KeyError for an unknown one, and for the keys of an algorithm."""
    section, _, leaf = key.rpartition(".")
    fields = RunConfig.model_fields
    if section:
        kind = fields[section].annotation
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, Section) else {}
    return fields[leaf].annotation


def choices_of(key: str) -> list[str]:
    """The values that the schema allows for a key such as `optim.schedule`; none where it lists none."""
    return _literals(annotation_of(key))


def flag_of(key: str) -> tuple[type, Option]:
    """(type of one value, option) of a key that has a flag. Raises KeyError for any other."""
    if key in DELTA_FLAGS:
        return DELTA_FLAGS[key]
    section, _, leaf = key.rpartition(".")
    kind = RunConfig.model_fields[section].annotation if section else RunConfig
    info = getattr(kind, "model_fields")[leaf]  # noqa: B009 (only the class of a section has it)
    extra = info.json_schema_extra
    if not isinstance(extra, dict) or "flag" not in extra:
        raise KeyError(key)
    one = Option(flag=str(extra["flag"]), help=info.description or "", panel=str(extra["panel"]), key=key)
    if key == "algo":
        names = method_names()
        return str, replace(one, help=one.help.format(names=", ".join(names)), choices=lambda: names)
    if key == "init_delta":
        one = replace(one, choices=run_choices)
    if key == "eval.metrics":
        one = replace(one, choices=metric_names)
    return _option_type(info.annotation, one)


def metric_names() -> list[str]:
    """Names of the metrics, and all."""
    # Read when the shell asks: the table imports numpy.
    from petrun.evaluate.metrics import METRICS

    return [*METRICS, "all"]


def _option_type(annotation: object, one: Option) -> tuple[type, Option]:
    """How values of this type are typed: comma-separated for a tuple, a word for a Literal, as text for what is parsed later."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    (part,) = [part for part in parts if part is not type(None)]
    allowed = _literals(part)
    if allowed:
        return str, replace(one, choices=lambda: allowed)
    if get_origin(part) is tuple:
        return str, replace(one, separated=True)
    return (part if part in _PLAIN and one.key not in _TYPED_AS_TEXT else str), one


_TYPED_AS_TEXT = ("train.max_seconds",)
"""Durations, such as 1h30m."""


def _literals(annotation: object) -> list[str]:
    """The strings of a Literal, or of the Literals in a union."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for part in get_args(annotation) for value in _literals(part)]
