"""`petrun export` and `petrun delta convert`: write a delta in another tool's files, or as a plain LoRA."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from petrun import console
from petrun.algebra.derived import source_line
from petrun.algebra.plain_lora import PLAIN, as_lora, layers
from petrun.checkpoint.delta import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Delta, save_delta
from petrun.commands import export
from petrun.commands.delta.files import check_out
from petrun.config.commands.delta import ConvertSettings
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError, did_you_mean
from petrun.inference.assembly import base_path
from petrun.inference.delta_opener import DeltaOpener
from petrun.interop.diffusers.writing import FORMS, write_unet_lora
from petrun.interop.gguf import require_gguf, write_gguf
from petrun.interop.mindpet.writing import write_mindpet
from petrun.interop.vllm import require_vllm
from petrun.models.factory import read_family
from petrun.tensors import TensorReader, atomic_folder, open_tensors
from petrun.typing import JsonObject

_FORMATS = ("petrun", "peft", "mindpet", "gguf", "vllm", *FORMS)
_OF_PEFT = ("peft", "vllm", "gguf")
"""Formats that are a peft folder, or are made of one."""
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
    if kind in _OF_PEFT:
        _write_of_peft(kind, settings, out)
        return
    path = check_out(out, _SUFFIXES[kind])
    (given,) = DeltaOpener(settings)(delta)
    made = _plain(given, as_algo)
    if kind == "mindpet":
        unsaid = write_mindpet(made, path)
        told = "".join(f"; MindPet's files do not hold {key}: it is {value:g}" for key, value in unsaid.items())
        console.tell(f"wrote {path}: a MindPet checkpoint of {made.algo}{told}")
        return
    if kind in FORMS:
        count = write_unet_lora(made, path, kind)
        console.tell(f"wrote {path}: a LoRA on {count} layers of a U-Net, in {kind}'s names")
        return
    assert made.manifest is not None
    written = save_delta(path, made.tensors, made.manifest)
    console.tell(f"wrote {path}: {made.algo}, {len(written.owned)} tensors, digest {written.digest[:16]}")


def _write_of_peft(kind: str, settings: ConvertSettings, out: str) -> None:
    """Write a peft folder; for vLLM one that it loads, or for llama.cpp a file made of one."""
    export.refuse_factory(settings.family)
    if kind == "gguf":
        require_gguf()
        check_out(out, _SUFFIXES[kind])
    (given,) = DeltaOpener(settings)(settings.delta)
    sources, made = replace(settings, alpha=None), _plain(given, settings.as_algo)
    if kind == "peft":
        export.write(made, out, sources, settings.task)
        console.tell(f"wrote {out}: a peft adapter of {given.algo}")
        return
    if kind == "vllm":
        with atomic_folder(Path(out).expanduser()) as folder:
            export.write(made, str(folder), sources, settings.task)
            fields, adapter = _adapter(folder)
            rank = require_vllm(fields, adapter.names)
        console.tell(f"wrote {out}: a peft adapter that vLLM loads")
        console.tell(f"vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules {Path(out).name}={out}")
        return
    raw, _, _ = read_family(base_path(ModelConfig(base=settings.base, family=settings.family)), settings.family)
    with tempfile.TemporaryDirectory() as name:
        fields, adapter = _adapter(export.write(made, str(Path(name) / "adapter"), sources, settings.task))
        layers = write_gguf(adapter, fields, raw, Path(out).expanduser())
    console.tell(f"wrote {out}: a GGUF adapter of {layers} layers")
    console.tell(f"llama.cpp: llama-cli -m BASE.gguf --lora {out}; Ollama, in a Modelfile: ADAPTER {out}")


def _adapter(folder: Path) -> tuple[JsonObject, TensorReader]:
    """Return (adapter_config.json, the tensors) of a peft folder that was written just now."""
    return json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")), open_tensors(folder / ADAPTER_WEIGHTS)


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
