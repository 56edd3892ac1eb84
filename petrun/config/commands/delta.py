"""`petrun delta`: deltas as files."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.choices import run_choices
from petrun.config.options import MODEL, RUN, DeltaSources, SettingField, argument, like, option


def _one() -> SettingField:
    return argument(
        "Delta: a petrun file or run folder, a peft adapter folder, or a MindPet checkpoint.", choices=run_choices
    )


def _out() -> SettingField:
    return option("--out", "Delta to write: .ckpt or .safetensors. Must not exist.", RUN)


def _base() -> SettingField:
    return like(
        "model.base",
        "The deltas' base. Needed for deltas of other tools, and for sums of whole parameters whose weights do not add up to 1.",
    )


def _rank() -> SettingField:
    return option("--rank", "Highest rank of a layer in the result.", RUN)


def _energy() -> SettingField:
    return option("--energy", "Share of the squared singular values to keep, such as 0.99.", RUN)


def _as_json() -> SettingField:
    return option("--json", "Print one JSON object.", default=False)


def _every() -> SettingField:
    return option("--all", "List every layer and tensor, not only the first ones.", default=False)


@dataclass(frozen=True, kw_only=True)
class InfoSettings:
    """The delta that is shown."""

    delta: str = _one()
    as_json: bool = _as_json()
    every: bool = _every()


@dataclass(frozen=True, kw_only=True)
class DiffSettings(DeltaSources):
    """The two deltas that are compared."""

    first: str = _one()
    second: str = _one()
    base: str | None = _base()
    as_json: bool = _as_json()
    every: bool = _every()


@dataclass(frozen=True, kw_only=True)
class AddSettings(DeltaSources):
    """The deltas that are added, and how."""

    deltas: tuple[str, ...] = argument(
        "PATH or PATH:WEIGHT, two or more. Default weight 1.", metavar="PATH:WEIGHT...", choices=run_choices
    )
    out: str | None = _out()
    method: str = option(
        "--method",
        "sum (exact), ties or dare.",
        RUN,
        default="sum",
        shows_default=True,
        choices=lambda: ("sum", "ties", "dare"),
    )
    density: float | None = option("--density", "ties: share of each change's entries that stays. Default 0.2.", RUN)
    drop: float | None = option("--drop", "dare: probability that an entry is dropped. Default 0.9.", RUN)
    seed: int | None = option("--seed", "dare: seed of what is dropped. Default 0.", RUN)
    rank: int | None = _rank()
    energy: float | None = _energy()
    base: str | None = _base()


@dataclass(frozen=True, kw_only=True)
class ScaleSettings(DeltaSources):
    """The delta that is multiplied, and by what."""

    delta: str = _one()
    factor: float = argument("What the delta is multiplied by.")
    out: str | None = _out()
    base: str | None = _base()


@dataclass(frozen=True, kw_only=True)
class CompressSettings(DeltaSources):
    """The delta whose ranks are reduced, and how much is kept."""

    delta: str = _one()
    out: str | None = _out()
    rank: int | None = _rank()
    energy: float | None = _energy()
    base: str | None = _base()


@dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """The two models whose difference becomes a LoRA, and how much is kept."""

    base: str | None = like("model.base")
    tuned: str | None = option("--tuned", "The tuned model: a folder or file like --base.", MODEL)
    out: str | None = _out()
    rank: int | None = _rank()
    energy: float | None = _energy()
    target: tuple[str, ...] = option(
        "--target", "Layers, as in train. Default: all-linear.", RUN, default=(), separated=True
    )
    rest: bool = option(
        "--rest/--no-rest", "Keep what differs outside of the layers, whole. Default: keep.", default=True
    )
    family: str | None = like("model.family")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(DeltaSources):
    """The delta that is written in another tool's files."""

    delta: str = _one()
    out: str | None = option(
        "--out", "A .ckpt, .safetensors or .gguf file, or a folder for peft and vllm. Must not exist.", RUN
    )
    to: str | None = option(
        "--to",
        "petrun, peft, vllm, gguf or mindpet; of a U-Net's LoRA also diffusers or kohya. Default: what the ending of --out says, "
        "peft for a folder.",
        RUN,
        choices=lambda: ("petrun", "peft", "vllm", "gguf", "mindpet", "diffusers", "kohya"),
    )
    as_algo: str | None = option(
        "--as", "lora: write pissa, rslora or adalora as the plain LoRA that they are.", RUN, choices=lambda: ("lora",)
    )
    base: str | None = _base()
    task: str | None = option(
        "--task",
        "peft: classify, tokens, lm or instruct, where the delta does not say it.",
        RUN,
        choices=lambda: ("classify", "tokens", "lm", "instruct"),
    )
    check: bool = option(
        "--check",
        "Compute logits with what was written, of peft and vllm by peft in a process of its own, and compare them with base + delta; "
        "remove the files if they differ.",
        RUN,
        default=False,
    )
    tolerance: float | None = option("--tolerance", "Largest difference of a logit for --check. Default 0.001.", RUN)
    probe: str | None = option("--probe", "Text file for --check, a row a line. Default: random tokens.", RUN)
    peft_python: str | None = option(
        "--peft-python", "A Python with torch, transformers and peft, for --check. Default: petrun's own.", RUN
    )
