"""`petrun delta convert`: write a delta in another tool's files, or as a plain LoRA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from petrun import console
from petrun.algebra.derived import source_line
from petrun.algebra.plain_lora import PLAIN, as_lora, layers
from petrun.checkpoint.delta import Delta, save_delta
from petrun.commands import export
from petrun.commands.delta.files import check_out
from petrun.config.commands.delta import ConvertSettings
from petrun.errors import ConfigError, did_you_mean
from petrun.inference.delta_opener import DeltaOpener
from petrun.interop.mindpet.writing import write_mindpet

_FORMATS = ("petrun", "peft", "mindpet")


def run(settings: ConvertSettings) -> None:
    """Write `out`: a .ckpt or .safetensors with a manifest, a peft folder, or a .ckpt for MindPet. Raises DeltaError, OutputError."""
    delta, out = settings.delta, settings.out
    if out is None:
        raise ConfigError("--out is missing: where to write the delta", hint="Example: --out adapter --to peft")
    as_algo, task = settings.as_algo, settings.task
    kind = settings.to or ("petrun" if Path(out).suffix in (".ckpt", ".safetensors") else "peft")
    if kind not in _FORMATS:
        raise ConfigError(f"--to {settings.to} is unknown. {did_you_mean(kind, _FORMATS)}")
    if as_algo not in (None, PLAIN):
        raise ConfigError(f"--as {as_algo} is unknown", hint=f"{PLAIN} is the form of its variants.")
    if task is not None and kind != "peft":
        raise ConfigError("--task is for --to peft, where the delta does not say it", hint="Leave --task out.")
    if kind == "peft":
        export.refuse_factory(settings.family)
        (given,) = DeltaOpener(settings)(delta)
        export.write(_plain(given, as_algo), out, replace(settings, alpha=None), task)
        console.print(f"wrote {out}: a peft adapter of {given.algo}")
        return
    path = check_out(out, (".ckpt",) if kind == "mindpet" else (".ckpt", ".safetensors"))
    (given,) = DeltaOpener(settings)(delta)
    made = _plain(given, as_algo)
    if kind == "mindpet":
        unsaid = write_mindpet(made, path)
        told = "".join(f"; MindPet's files do not hold {key}: it is {value:g}" for key, value in unsaid.items())
        console.print(f"wrote {path}: a MindPet checkpoint of {made.algo}{told}")
        return
    assert made.manifest is not None
    written = save_delta(path, made.tensors, made.manifest)
    console.print(f"wrote {path}: {made.algo}, {len(written.owned)} tensors, digest {written.digest[:16]}")


def _plain(given: Delta, as_algo: str | None) -> Delta:
    """Return the delta, or its plain LoRA with a manifest that says so."""
    if as_algo is None:
        return given
    made = as_lora(given)
    assert made.manifest is not None
    manifest = made.manifest.model_copy(
        update={"algo": made.algo, "config": made.config, "made": ("convert to lora", source_line(given))}
    )
    ranks = sorted({layer.product.rank for layer in layers(made).values()})
    console.print(f"{given.algo} as {made.algo}: rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else ""))
    return replace(made, manifest=manifest)
