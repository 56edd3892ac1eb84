"""Encode texts as vectors, as sentence-transformers does, with petrun's own nets of BERT and RoBERTa.

The net gives the last hidden state of every token; pooling, dense layers and normalisation are computed in numpy, float32.
B batch, T tokens, H hidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from petrun.config.effect import BASE_KEYS, require_read
from petrun.config.load import load_run_config
from petrun.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from petrun.errors import ConfigError, ModelError
from petrun.evaluate.score import Runner, eval_mode
from petrun.inference.assembly import open_base
from petrun.inference.encoder_batches import ENCODERS, LONGEST, by_length, padded
from petrun.inference.sentences.folder import SentenceFolder, read_sentence_folder
from petrun.models.base import LoadedModel
from petrun.parallel.compile_cache import use_compile_cache
from petrun.parallel.context import setup
from petrun.tensors import Array
from petrun.typing import Cell, Tensor


class TokenStates(nn.Cell):
    """The last hidden state of every token of a net of BERT or RoBERTa.

    Inputs: those of the net, (B, T) int32. Returns: (B, T, H) in the net's type.
    """

    def __init__(self, net: Cell) -> None:
        super().__init__(auto_prefix=False)
        self.embeddings, self.mask, self.layers = net.embeddings, net.masks[0], net.layers
        # As a classifier the net computes the first position alone in its last layer.
        self.layers[len(self.layers) - 1].first_only = False

    def construct(self, input_ids: Tensor, segment_ids: Tensor, beside: Tensor) -> Any:
        x = self.embeddings(input_ids, segment_ids, beside)
        mask = self.mask(segment_ids, 0, 0)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class SentenceEncoder:
    """Encodes texts with one folder of sentence-transformers."""

    def __init__(self, folder: SentenceFolder, loaded: LoadedModel, tokenizer: Tokenizer, batch_size: int = 32) -> None:
        self.folder, self.tokenizer, self.batch_size = folder, tokenizer, batch_size
        self._pad_id, self._inputs = loaded.pad_token_id, loaded.inputs
        positions = loaded.max_positions
        limits = [limit for limit in (folder.longest, positions) if limit is not None]
        self.longest = min(limits) if limits else LONGEST
        """Most tokens of a text; the end of a longer one is not seen, as in sentence-transformers."""
        self._cell = TokenStates(loaded.net)
        self._runner = Runner(self._cell)
        dense = [(hashlib.sha256(layer.weight.tobytes()).hexdigest(), layer.activation) for layer in folder.dense]
        parts = (loaded.base_digest, dense, folder.poolings, folder.normalizes, folder.lower, folder.prompt)
        self.digest = hashlib.sha256(repr((parts, self.longest, tokenizer.digest)).encode()).hexdigest()
        """SHA-256 over everything that the vectors depend on."""

    def encode(self, texts: Sequence[str], tell: Callable[[int, int], None] | None = None) -> Array:
        """Return the vectors of the texts, (n, d) float32. `tell`: called with (texts done, texts)."""
        lowered = [self.folder.prompt + (text.lower() if self.folder.lower else text) for text in texts]
        ids = self.tokenizer.encode_many(lowered, longest=self.longest).ids
        found: Array | None = None
        done = 0
        for chosen in by_length(ids, self.batch_size):
            vectors = self._vectors([ids[i] for i in chosen])
            if found is None:
                found = np.empty((len(texts), vectors.shape[1]), np.float32)
            found[chosen] = vectors
            done += len(chosen)
            if tell is not None:
                tell(done, len(texts))
        return found if found is not None else np.zeros((0, 0), np.float32)

    def _vectors(self, rows: Sequence[Sequence[int]]) -> Array:
        given = padded(rows, self._pad_id, self.longest)
        with eval_mode(self._cell):
            (states,) = self._runner([given[name] for name in self._inputs])
        found = pooled(np.asarray(states, np.float32), given["segment_ids"], self.folder.poolings)
        for layer in self.folder.dense:
            found = layer(found)
        if self.folder.normalizes:
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return found


def pooled(states: Array, mask: Array, ways: Sequence[str]) -> Array:
    """Make one vector of the vectors of a text's tokens: (B, T, H), mask (B, T) with 0 for padding -> (B, H x number of ways) float32.

    Sums over tokens are divided by at least 1e-9, as sentence-transformers does.
    """
    real = (mask > 0)[:, :, None].astype(np.float32)
    count = np.maximum(real.sum(axis=1), 1e-9)
    total = (states * real).sum(axis=1)
    last = np.maximum((mask > 0).sum(axis=1) - 1, 0)
    makers: Mapping[str, Callable[[], Array]] = {
        "cls": lambda: states[:, 0],
        "max": lambda: np.where(real > 0, states, -np.inf).max(axis=1),
        "mean": lambda: total / count,
        "mean_sqrt_len_tokens": lambda: total / np.sqrt(count),
        "lasttoken": lambda: states[np.arange(len(states)), last],
    }
    return np.concatenate([makers[way]() for way in ways], axis=1).astype(np.float32)


def open_sentence_encoder(
    folder: str, flags: Mapping[str, tuple[str, object]], sets: Sequence[str], batch_size: int = 32
) -> SentenceEncoder:
    """Load the encoder of a folder. `flags`, `sets`: settings of device and type. Raises ModelError, WeightsError, ConfigError."""
    if batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size} is below 1")
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ModelError(
            f"{folder}: no such folder", hint="Give a folder of sentence-transformers, with its modules.json."
        )
    read = read_sentence_folder(path)
    resolved = load_run_config(None, {**flags, "model.base": ("--encoder", str(read.base))}, sets)
    require_read(resolved, BASE_KEYS)
    config = resolved.config
    device = setup(config.device, config.model.dtype)
    use_compile_cache(config)
    loaded = open_base(config.model, device, task="classify", num_labels=2, seed=0)
    if loaded.family not in ENCODERS:
        raise ModelError(f"{folder}: the model is of the family {loaded.family}", hint=f"Known: {', '.join(ENCODERS)}.")
    tokenizer = load_tokenizer(read.base)
    if tokenizer is None:
        raise ModelError(f"{folder}: holds no tokenizer")
    return SentenceEncoder(read, loaded, tokenizer, batch_size)
