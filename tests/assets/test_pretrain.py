"""The batches that the embedded base learns from, and the script from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

from assets import documents, pretrain  # noqa: E402

from petrun.assets import base_folder  # noqa: E402
from petrun.tensors import open_tensors  # noqa: E402
from petrun.tensors.targets import IGNORED  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(base_folder() / "tokenizer.json"))


def test_documents_are_packed_whole_and_in_order(tokenizer):
    batch = next(pretrain.packed(tokenizer, 0))
    assert batch["input_ids"].shape == (pretrain.ROWS - pretrain.DRILL_ROWS, pretrain.TOKENS)
    found = []
    for row in range(len(batch["input_ids"])):
        segments = batch["segment_ids"][row]
        for number in range(1, segments.max() + 1):
            inside = segments == number
            assert (batch["position_ids"][row][inside] == np.arange(inside.sum())).all()
            ids, targets = batch["input_ids"][row][inside], batch["targets"][row][inside]
            assert (ids[1:] == targets[:-1]).all()
            assert targets[-1] == tokenizer.token_to_id(documents.END_OF_TEXT)
            found.append(tokenizer.decode(ids.tolist(), skip_special_tokens=False))
        assert (batch["targets"][row][segments == 0] == IGNORED).all()
    assert len(found) > 40
    assert found == [documents.document(0, i) for i in range(len(found))]


def test_the_drill_supervises_only_what_stands_earlier_in_the_row():
    batch = pretrain.drill(np.random.default_rng(1), 500, 8)
    scored = batch["targets"] != IGNORED
    assert 0.2 < scored.mean() < 0.6
    assert batch["input_ids"].min() >= len(documents.SPECIAL_TOKENS)
    for row, column in zip(*np.nonzero(scored), strict=True):
        ids = batch["input_ids"][row]
        pairs = set(zip(ids[:column].tolist(), ids[1 : column + 1].tolist(), strict=True))
        assert (int(ids[column]), int(batch["targets"][row, column])) in pairs


def test_the_drill_comes_first_and_stays_in_every_batch(tokenizer):
    lessons = pretrain.lessons(tokenizer, 0)
    batches = [next(lessons) for _ in range(pretrain.DRILL_STEPS + 1)]
    shape = (pretrain.ROWS, pretrain.TOKENS)
    assert {array.shape for batch in batches for array in batch.values()} == {shape}
    assert (batches[-2]["segment_ids"] == 1).all()
    assert (batches[-1]["segment_ids"][: -pretrain.DRILL_ROWS].max(axis=1) > 1).any()
    assert (batches[-1]["segment_ids"][-pretrain.DRILL_ROWS :] == 1).all()


def test_the_shipped_base_is_the_model_that_the_script_describes(tokenizer):
    config = json.loads((base_folder() / "config.json").read_text())
    assert config == pretrain.model_config(tokenizer)
    reader = open_tensors(base_folder())
    fresh = pretrain.starting_weights(config, 0)
    assert set(reader.names) == set(fresh)
    for name, value in fresh.items():
        assert (reader.info(name).shape, reader.info(name).dtype) == (value.shape, "float16")
        assert np.isfinite(reader.read(name)).all()


@pytest.mark.all_only
def test_the_script_makes_a_base_from_nothing(tmp_path):
    command = [sys.executable, str(REPO / "scripts" / "make_assets.py"), "--out", str(tmp_path), "--steps", "2"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for part in ("base/tokenizer.json", "base/tokenizer_config.json", "base/generation_config.json", "task/eval.jsonl"):
        assert (tmp_path / part).read_bytes() == (base_folder().parent / part).read_bytes()
    reader = open_tensors(tmp_path / "base")
    fresh = pretrain.starting_weights(json.loads((tmp_path / "base" / "config.json").read_text()), 0)
    moved = [name for name in reader.names if abs(reader.read(name) - fresh[name]).max() > 1e-4]
    assert len(moved) > 0.9 * len(fresh)
