"""Write a delta as an adapter of peft, or as what is made of one: a folder that vLLM loads, a file for llama.cpp."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from petrun import console
from petrun.checkpoint.delta import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Delta
from petrun.commands import export
from petrun.commands.delta.files import check_out
from petrun.config.commands.delta import ConvertSettings
from petrun.config.schema import ModelConfig
from petrun.inference.assembly import base_path
from petrun.interop.gguf import require_gguf, write_gguf
from petrun.interop.vllm import require_vllm
from petrun.models.factory import read_family
from petrun.tensors import TensorReader, atomic_folder, open_tensors
from petrun.typing import JsonObject

ADAPTERS = ("peft", "vllm", "gguf")


def require_writable(kind: str, settings: ConvertSettings, out: str) -> None:
    """Raise, before the delta is read, ConfigError for a user's own model, SetupError without gguf, OutputError for its path."""
    export.refuse_factory(settings.family)
    if kind == "gguf":
        require_gguf()
        check_out(out, (".gguf",))


def write_adapter(kind: str, made: Delta, settings: ConvertSettings, out: str) -> None:
    """Write a folder, or for `gguf` a file. Raises DeltaError for what the tool does not take, OutputError."""
    sources, path = replace(settings, alpha=None), Path(out).expanduser()
    if kind == "peft":
        export.write(made, out, sources, settings.task)
        console.tell(f"wrote {out}: a peft adapter of {made.algo}")
    elif kind == "vllm":
        with atomic_folder(path) as folder:
            export.write(made, str(folder), sources, settings.task)
            fields, adapter = _read(folder)
            rank = require_vllm(fields, adapter.names)
        console.tell(f"wrote {out}: a peft adapter that vLLM loads")
        console.tell(f"vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules {path.name}={out}")
    else:
        raw, _, _ = read_family(base_path(ModelConfig(base=settings.base, family=settings.family)), settings.family)
        with tempfile.TemporaryDirectory() as name:
            fields, adapter = _read(export.write(made, str(Path(name) / "adapter"), sources, settings.task))
            layers = write_gguf(adapter, fields, raw, path)
        console.tell(f"wrote {out}: a GGUF adapter of {layers} layers")
        console.tell(f"llama.cpp: llama-cli -m BASE.gguf --lora {out}; Ollama, in a Modelfile: ADAPTER {out}")


def _read(folder: Path) -> tuple[JsonObject, TensorReader]:
    """Return (adapter_config.json, the tensors) of a peft folder."""
    return json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")), open_tensors(folder / ADAPTER_WEIGHTS)
