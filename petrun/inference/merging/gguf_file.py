"""`petrun merge --out model.gguf`: a merged model as one file for llama.cpp and Ollama, and the Modelfile beside it."""

from __future__ import annotations

from pathlib import Path

from petrun import console
from petrun.config.schema import ModelConfig
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import ConfigError, ModelError
from petrun.inference.stored_base import StoredBase, stored_base
from petrun.interop.gguf import require_gguf
from petrun.interop.gguf_model import MODEL_TYPES, require_gguf_model, write_gguf_model, write_modelfile
from petrun.models.folder import eos_ids
from petrun.models.llama_config import LlamaConfig
from petrun.tensors import open_tensors

SUFFIX = ".gguf"


def require_gguf_file(base: StoredBase, out: Path) -> None:
    """Check, before any work, that the model has such a file. Raises ConfigError, ModelError, SetupError."""
    require_gguf("--out " + out.name)
    for path in (out, modelfile(out)):
        if path.exists():
            raise ConfigError(f"{path}: exists", hint="Choose another --out, or remove it first.")
    if not base.path.is_dir():
        raise ConfigError(
            f"--out {out}: a GGUF file holds the tokenizer, and --base {base.path} is no folder with one",
            hint="Give a Hugging Face folder as --base.",
        )
    require_gguf_model(_config_of(base), base.raw, base.path)


def write_gguf_file(merged: Path, out: Path) -> None:
    """Write the model of a Hugging Face folder as `out`, and its Modelfile. Raises ModelError, OutputError."""
    base = stored_base(ModelConfig(base=str(merged)))
    count = write_gguf_model(open_tensors(merged), _config_of(base), base.raw, merged, out, out.stem)
    tokenizer = load_tokenizer(merged)
    ends = [] if tokenizer is None else [tokenizer.token(i) for i in eos_ids(base.raw, merged)]
    write_modelfile(modelfile(out), out, ends)
    console.tell(f"wrote {out}: {count} tensors, {out.stat().st_size / 1e6:,.1f} MB, for llama.cpp")
    console.tell(f"wrote {modelfile(out)}: ollama create {out.stem} -f {modelfile(out)}")


def modelfile(out: Path) -> Path:
    """Return where the Modelfile of a GGUF file goes."""
    return out.with_suffix(".Modelfile")


def _config_of(base: StoredBase) -> LlamaConfig:
    if not isinstance(base.parsed, LlamaConfig):
        raise ModelError(
            f"{base.family}: no GGUF file is written of such a model",
            hint=f"Known: {', '.join(MODEL_TYPES)}; of others llama.cpp converts the merged folder.",
        )
    return base.parsed
