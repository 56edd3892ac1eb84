"""Pretraining of the base with petrun's own net, loss, optimizer and training step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from assets.documents import END_OF_TEXT, SPECIAL_TOKENS, TURN_END, document
from assets.start import starting_weights
from petrun.models.base import LoadedModel
from petrun.models.factory import load_model
from petrun.parallel.context import setup
from petrun.tensors import TensorEntry, write_safetensors
from petrun.tensors.targets import IGNORED
from petrun.train.adamw import AdamW
from petrun.train.loop import Plan, train
from petrun.train.loss import SupervisedLoss
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep

ROWS, TOKENS = 32, 128
PEAK_RATE, WARMUP_STEPS = 3e-3, 30
DRILL_STEPS, DRILL_ROWS = 200, 4
"""Steps of copying drill alone at the beginning, and its rows in every later batch."""


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json of the base."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 1024,
        "rope_theta": 100000.0,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id(TURN_END),
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "torch_dtype": "float16",
    }


def drill(rng: np.random.Generator, vocabulary: int, rows: int) -> dict[str, Any]:
    """Rows of random tokens in which spans come back; only tokens that can be copied are supervised."""
    ids = np.zeros((rows, TOKENS + 1), np.int32)
    targets = np.full((rows, TOKENS), IGNORED, np.int32)
    for row in range(rows):
        at = 0
        while at < TOKENS + 1:
            length = min(int(rng.integers(3, 11)), TOKENS + 1 - at)
            if at > 16 and rng.random() < 0.6:
                source = int(rng.integers(0, at - length))
                ids[row, at : at + length] = ids[row, source : source + length]
                targets[row, at : at + length - 1] = ids[row, at + 1 : at + length]
            else:
                ids[row, at : at + length] = rng.integers(len(SPECIAL_TOKENS), vocabulary, length)
            at += length
    positions = np.tile(np.arange(TOKENS, dtype=np.int32), (rows, 1))
    return {
        "input_ids": ids[:, :-1],
        "segment_ids": np.ones_like(positions),
        "position_ids": positions,
        "targets": targets,
    }


def lessons(tokenizer: Tokenizer, seed: int) -> Iterator[dict[str, Any]]:
    """Drill alone, then documents with a few rows of drill."""
    rng = np.random.default_rng(seed)
    size = tokenizer.get_vocab_size()
    for _ in range(DRILL_STEPS):
        yield drill(rng, size, ROWS)
    for batch in packed(tokenizer, seed):
        extra = drill(rng, size, DRILL_ROWS)
        yield {name: np.concatenate([batch[name], extra[name]]) for name in batch}


def packed(tokenizer: Tokenizer, seed: int) -> Iterator[dict[str, Any]]:
    """Endless batches of whole documents, several to a row and blind to one another: (ROWS - DRILL_ROWS, TOKENS) int32."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert end is not None, "the tokenizer was made with this token"
    index = 0
    rows: list[list[list[int]]] = [[]]
    while True:
        texts = [document(seed, i) for i in range(index, index + 1000)]
        index += len(texts)
        for encoding in tokenizer.encode_batch(texts):
            ids = [*encoding.ids, end][: TOKENS + 1]
            if sum(len(other) - 1 for other in rows[-1]) + len(ids) - 1 > TOKENS:
                if len(rows) == ROWS - DRILL_ROWS:
                    yield _arrays(rows)
                    rows = []
                rows.append([])
            rows[-1].append(ids)


def _arrays(rows: list[list[list[int]]]) -> dict[str, Any]:
    names = ("input_ids", "segment_ids", "position_ids", "targets")
    batch = {name: np.zeros((len(rows), TOKENS), np.int32) for name in names}
    batch["targets"][:] = IGNORED
    for row, pieces in enumerate(rows):
        at = 0
        for number, ids in enumerate(pieces, 1):
            span = slice(at, at + len(ids) - 1)
            batch["input_ids"][row, span] = ids[:-1]
            batch["targets"][row, span] = ids[1:]
            batch["segment_ids"][row, span] = number
            batch["position_ids"][row, span] = range(len(ids) - 1)
            at += len(ids) - 1
    return batch


def write_base(folder: Path, tokenizer: Tokenizer, weights: dict[str, Any], dtype: str) -> None:
    """config.json, generation_config.json and model.safetensors."""
    config = model_config(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    ends = {"eos_token_id": [config["eos_token_id"], config["pad_token_id"]], "pad_token_id": config["pad_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n")
    entries = [
        TensorEntry(name, value.shape, dtype, partial(np.asarray, value)) for name, value in sorted(weights.items())
    ]
    write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})


def pretrain(tokenizer: Tokenizer, folder: Path, seed: int, steps: int) -> None:
    """Train from starting_weights for `steps` steps and leave the base in `folder`, float16."""
    setup("cpu")
    write_base(folder, tokenizer, starting_weights(model_config(tokenizer), seed), "float32")
    loaded = load_model(folder)
    net = loaded.net
    net.set_train(True)
    schedule = Schedule(
        kind="cosine", peak=PEAK_RATE, warmup_steps=min(WARMUP_STEPS, steps // 2), total_steps=steps, min_ratio=0.02
    )
    optimizer = AdamW(net.trainable_params(), schedule, beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=0.0)
    step = TrainStep(SupervisedLoss(net), optimizer, clip=1.0)
    losses: list[float] = []

    def on_step(record: dict[str, Any]) -> bool:
        losses.append(record["loss"])
        if record["step"] % 25 == 0:
            print(
                f"step {record['step']} of {steps}: loss {np.mean(losses[-25:]):.4f}, {record['seconds']:.2f} s a step",
                flush=True,
            )
            write_base(folder, tokenizer, _stored(loaded), "float16")
        return False

    train(
        step,
        lessons(tokenizer, seed),
        Plan(micro_batches_per_epoch=steps, accumulate=1, total_micro_batches=steps),
        loaded.inputs,
        on_step,
    )
    write_base(folder, tokenizer, _stored(loaded), "float16")


def _stored(loaded: LoadedModel) -> dict[str, Any]:
    """The net's parameters under their Hugging Face names."""
    values = {parameter.name: parameter.asnumpy() for parameter in loaded.net.get_parameters()}
    return {stored.name: values[name] for name, stored in loaded.names.items() if name in values}
