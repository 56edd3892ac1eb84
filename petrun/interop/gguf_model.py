"""Write a merged model as one GGUF file, which llama.cpp and Ollama run without anything beside it, and a Modelfile for Ollama.

Matrices keep their type, vectors are float32. In files of the architecture llama the rows of q and k are in another order
(petrun/interop/gguf.py). Of a scaled rotation llama.cpp divides the frequencies by `rope_freqs`. The tokenizer is written as llama.cpp
reads byte-level BPE: tokens by id, their kinds, merges, and the name of the rule by which text is cut into words, which llama.cpp has.

Source: llama.cpp's convert_hf_to_gguf.py (LlamaModel, Qwen2Model, Qwen3Model), src/llama-vocab.cpp and src/llama-model.cpp; the keys and
the special tokens are written by its package gguf.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from petrun.errors import ModelError
from petrun.interop.gguf import ARCHITECTURES, interleave_halves, rotated_heads
from petrun.models.llama_config import LlamaConfig
from petrun.models.rope import frequencies
from petrun.tensors import Array, TensorReader, atomic_file
from petrun.tensors.output import write_text
from petrun.typing import JsonObject

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""model_type of config.json, of those that are written."""
_INSTEAD = "Write a folder (--out FOLDER): llama.cpp's convert_hf_to_gguf.py converts it."
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
"""How tokenizer.json cuts text into words -> llama.cpp's name of that rule."""
_KEEPS_WHOLE_WORDS = ("llama-bpe",)
"""Rules under which llama.cpp takes a word that is a token as it is, before any merge (ignore_merges)."""


def require_gguf_model(config: LlamaConfig, raw: JsonObject, folder: Path) -> None:
    """Raise ModelError for a base whose model or tokenizer has no such file. `raw`: its config.json; `folder`: with its tokenizer."""
    model_type = raw.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ModelError(
            f"{model_type}: no GGUF file is written of such a model",
            hint=f"Known: {', '.join(MODEL_TYPES)}. {_INSTEAD}",
        )
    scaled = {"default", "llama3"} if ARCHITECTURES[model_type] == "llama" else {"default"}
    if config.rope.kind not in scaled:
        raise ModelError(
            f"rotary positions of the kind {config.rope.kind} have no GGUF form here for {model_type}", hint=_INSTEAD
        )
    if any(config.windows):
        raise ModelError(f"{model_type}: sliding windows have no GGUF form here", hint=_INSTEAD)
    _word_rule(_tokenizer_json(folder), folder)


def write_gguf_model(
    reader: TensorReader, config: LlamaConfig, raw: JsonObject, folder: Path, out: Path, name: str
) -> int:
    """Write `out`. Returns how many tensors it holds; a tensor at a time is in memory.

    `reader`: the tensors under their Hugging Face names; `config` and `raw`: of its config.json; `folder`: with the tokenizer; `name`: of
    the model. Raises ModelError as require_gguf_model does, OutputError.
    """
    import gguf

    require_gguf_model(config, raw, folder)
    architecture = ARCHITECTURES[str(raw["model_type"])]
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], config.layers)
    names: dict[str, str] = {}
    for stored in reader.names:
        theirs = table.get_name(stored, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError(f"{reader.path}: llama.cpp's {architecture} has no tensor {stored}", hint=_INSTEAD)
        names[stored] = theirs
    with atomic_file(out) as (_, temporary):
        writer = gguf.GGUFWriter(temporary, architecture)
        _add_fields(gguf, writer, config, _file_type(gguf, reader), name)
        _add_tokenizer(gguf, writer, folder, config.vocab)
        factors = _frequency_factors(config)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        for stored, theirs in names.items():
            values = _stored(reader, stored)
            writer.add_tensor_info(theirs, values.shape, values.dtype, values.nbytes, _raw_type(gguf, values))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in _values(reader, factors, architecture, raw):
            writer.write_tensor_data(values)
        writer.close()
    return len(names) + (factors is not None)


def write_modelfile(out: Path, model: Path, stops: list[str]) -> None:
    """Write what `ollama create -f` takes. The template of a conversation is not in it: Ollama takes it from the GGUF file."""
    lines = [f"FROM ./{model.name}", *(f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in stops)]
    write_text(out, "\n".join(lines) + "\n")


def _values(reader: TensorReader, factors: Array | None, architecture: str, raw: JsonObject) -> Iterator[Array]:
    """Yield the tensors in the order of their entries."""
    if factors is not None:
        yield factors
    for stored in reader.names:
        values = _stored(reader, stored)
        heads = rotated_heads(stored.rpartition(".")[0], raw) if architecture == "llama" else 0
        yield np.ascontiguousarray(interleave_halves(values, heads) if heads else values)


def _stored(reader: TensorReader, name: str) -> Array:
    """Return a tensor as it is written: a vector in float32, a matrix in bfloat16 as its bytes (rows, 2 * columns) uint8."""
    info = reader.info(name)
    if len(info.shape) < 2:
        return reader.read(name).astype(np.float32)
    if info.dtype == "bfloat16":
        return np.frombuffer(reader.read_raw(name), np.uint8).reshape(info.shape[0], 2 * info.shape[1])
    return reader.read(name)


def _raw_type(gguf: Any, values: Array) -> Any:
    return gguf.GGMLQuantizationType.BF16 if values.dtype == np.uint8 else None


def _file_type(gguf: Any, reader: TensorReader) -> Any:
    """Return the type of most matrices."""
    dtypes = [reader.info(name).dtype for name in reader.names if len(reader.info(name).shape) > 1]
    of = {"float16": gguf.LlamaFileType.MOSTLY_F16, "bfloat16": gguf.LlamaFileType.MOSTLY_BF16}
    return of.get(max(dtypes, key=dtypes.count), gguf.LlamaFileType.ALL_F32)


def _add_fields(gguf: Any, writer: Any, config: LlamaConfig, file_type: Any, name: str) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.positions)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.wide)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.eps)
    writer.add_vocab_size(config.vocab)


def _frequency_factors(config: LlamaConfig) -> Array | None:
    """Return what llama.cpp divides the frequencies by, (D / 2,) float32; None where they are not scaled."""
    if config.rope.kind == "default":
        return None
    width = config.rope.width
    plain = 1.0 / config.rope.theta ** (np.arange(0, width, 2, dtype=np.float64) / width)
    factors: Array = (plain / frequencies(config.rope)[0]).astype(np.float32)
    return factors


def _tokenizer_json(folder: Path) -> JsonObject:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{folder}: holds no tokenizer.json, of which GGUF's tokens are made", hint=_INSTEAD)
    found: JsonObject = json.loads(path.read_text(encoding="utf-8"))
    return found


def _word_rule(tokenizer: JsonObject, folder: Path) -> str:
    """Return llama.cpp's name of the rule by which the tokenizer cuts text into words. Raises ModelError where it has none."""
    model = tokenizer["model"]
    parts = tokenizer.get("pre_tokenizer") or {}
    steps = parts.get("pretokenizers", [parts])
    last = steps[-1] if steps else {}
    byte_level = model.get("type") == "BPE" and last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    rule = None
    if byte_level and len(steps) == 1 and last.get("use_regex", True):
        rule = "gpt-2"
    elif byte_level and len(steps) == 2 and steps[0].get("type") == "Split" and not last.get("use_regex", True):
        rule = _WORDS.get((steps[0].get("pattern") or {}).get("Regex", ""))
    if rule is None or bool(model.get("ignore_merges")) != (rule in _KEEPS_WHOLE_WORDS):
        raise ModelError(
            f"{folder / 'tokenizer.json'}: cuts text into words by a rule that llama.cpp does not have for byte-level BPE",
            hint=f"Known: the rules of GPT-2, Llama 3 and Qwen2. {_INSTEAD}",
        )
    return rule


def _add_tokenizer(gguf: Any, writer: Any, folder: Path, vocab: int) -> None:
    """Add tokens by id, their kinds, merges and special tokens. Rows of the table without a token are padding."""
    tokenizer = _tokenizer_json(folder)
    tokens = [f"[PAD{i}]" for i in range(vocab)]
    kinds = [gguf.TokenType.UNUSED] * vocab
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = token, gguf.TokenType.NORMAL
    for added in tokenizer.get("added_tokens", ()):
        number = added["id"]
        tokens[number] = added["content"]
        kinds[number] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_word_rule(tokenizer, folder))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(folder, load_merges=bool(tokenizer["model"].get("merges")), n_vocab=vocab)
    # What llama.cpp would take for granted of a rule's tokenizers is said.
    special.add_special_token.setdefault("bos", False)
    special.add_to_gguf(writer, quiet=True)
