"""`petrun export` and `petrun delta convert`: write a delta in another tool's files, or as a plain LoRA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from petrun import console
from petrun.algebra.derived import source_line
from petrun.algebra.plain_lora import PLAIN, as_lora, layers
from petrun.checkpoint.delta import Delta, save_delta
from petrun.commands.delta.adapters import ADAPTERS, require_writable, write_adapter
from petrun.commands.delta.files import check_out
from petrun.config.commands.delta import ConvertSettings
from petrun.config.effect import require_effect
from petrun.errors import ConfigError, PetrunError, did_you_mean
from petrun.inference.delta_opener import DeltaOpener, WeightedPath
from petrun.inference.merging.deltas import fit_deltas
from petrun.inference.merging.export_check import ExportCheck, require_check
from petrun.interop.diffusers.writing import FORMS, write_unet_lora
from petrun.interop.mindpet.writing import write_mindpet
from petrun.tensors.output import remove_output
from petrun.typing import JsonObject

_FORMATS = ("petrun", "mindpet", *ADAPTERS, *FORMS)
_SUFFIXES = {
    "petrun": (".ckpt", ".safetensors"),
    "mindpet": (".ckpt",),
    "gguf": (".gguf",),
    **dict.fromkeys(FORMS, (".safetensors",)),
}


def run(settings: ConvertSettings) -> None:
    """Write `out`: a .ckpt or .safetensors with a manifest, a peft folder, a .ckpt for MindPet, or a .safetensors for diffusers or kohya.

    Raises DeltaError, OutputError.
    """
    delta, out = settings.delta, settings.out
    if out is None:
        raise ConfigError("--out is missing: where to write the delta", hint="Example: --out adapter --to peft")
    as_algo, task = settings.as_algo, settings.task
    suffix = Path(out).suffix
    kind = settings.to or next((kind for kind, suffixes in _SUFFIXES.items() if suffix in suffixes), "peft")
    if kind not in _FORMATS:
        raise ConfigError(f"--to {settings.to} is unknown. {did_you_mean(kind, _FORMATS)}")
    if as_algo not in (None, PLAIN):
        raise ConfigError(f"--as {as_algo} is unknown", hint=f"{PLAIN} is the form of its variants.")
    if task is not None and kind not in ("peft", "vllm"):
        raise ConfigError("--task is for --to peft, where the delta does not say it", hint="Leave --task out.")
    if not settings.check:
        require_effect(settings, ("tolerance", "probe", "peft_python"), "without --check")
    if kind in ADAPTERS:
        require_writable(kind, settings, out)
    else:
        check_out(out, _SUFFIXES[kind])
    opener = DeltaOpener(settings)
    (given,) = opener(delta)
    if settings.check:
        require_check(kind, opener.base, settings.peft_python)
    unsaid = _write(kind, _plain(given, as_algo), settings, Path(out).expanduser())
    if settings.check:
        _check(kind, opener, settings, unsaid.get("alpha"))


def _write(kind: str, made: Delta, settings: ConvertSettings, path: Path) -> JsonObject:
    """Write the delta. Returns the settings that a reader must give, because the file does not hold them."""
    if kind in ADAPTERS:
        write_adapter(kind, made, settings, str(path))
        return {}
    if kind == "mindpet":
        unsaid = write_mindpet(made, path)
        told = "".join(f"; MindPet's files do not hold {key}: it is {value:g}" for key, value in unsaid.items())
        console.tell(f"wrote {path}: a MindPet checkpoint of {made.algo}{told}")
        return unsaid
    if kind in FORMS:
        count = write_unet_lora(made, path, kind)
        console.tell(f"wrote {path}: a LoRA on {count} layers of a U-Net, in {kind}'s names")
        return {}
    assert made.manifest is not None
    written = save_delta(path, made.tensors, made.manifest)
    console.tell(f"wrote {path}: {made.algo}, {len(written.owned)} tensors, digest {written.digest[:16]}")
    return {}


def _check(kind: str, opener: DeltaOpener, settings: ConvertSettings, alpha: float | None) -> None:
    """Compare what was written with base + delta, and remove it where they differ."""
    assert settings.out is not None
    written = Path(settings.out).expanduser()
    check = ExportCheck(
        base=opener.base,
        kind=kind,
        alpha=alpha,
        peft_python=settings.peft_python,
        tolerance=settings.tolerance,
        probe=settings.probe,
    )
    try:
        check.check(fit_deltas([WeightedPath(settings.delta, 1.0)], opener).delta, written)
    except PetrunError:
        remove_output(written)
        console.print(f"removed {written}")
        raise


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
    console.tell(f"{given.algo} as {made.algo}: rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else ""))
    return replace(made, manifest=manifest)
