"""Training with the base in float16: the losses of float32, and a delta that stays float32."""

import json

import numpy as np
import pytest

from petrun.commands import train
from petrun.config.commands.train import TrainSettings
from petrun.tensors import open_tensors
from tests.tiny import ORDERS, REVIEWS, write_base, write_rows


def run(base, rows, algo, dtype, out):
    flags = {
        "model.base": ("--base", str(base)),
        "model.dtype": ("--set model.dtype", dtype),
        # Low enough that no step overflows: one that does is left out, and the losses would follow one step behind.
        "train.loss_scale": ("--set train.loss_scale", 128.0 if dtype == "float16" else None),
        "data.path": ("--data", [str(rows)]),
        "algo": ("--algo", algo),
        "train.steps": ("--steps", 5),
        "train.batch_size": ("--batch-size", 2),
        "optim.lr": ("--lr", 2e-3),
        "optim.schedule": ("--schedule", "constant"),
        "data.shuffle": ("--no-shuffle", False),
        "out.dir": ("--out", str(out)),
        "out.format": ("--format", "safetensors"),
    }
    train.run(TrainSettings(flags={key: pair for key, pair in flags.items() if pair[1] is not None}))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in log if "loss" in entry], open_tensors(out / f"{algo}.safetensors")


@pytest.mark.parametrize(
    ("family", "algo"), [("bert", "lora"), pytest.param("gpt2", "full", marks=pytest.mark.all_only)]
)
def test_float16_follows_float32(tmp_path, monkeypatch, family, algo):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = write_base(tmp_path / family, family)
    rows = write_rows(tmp_path / "rows.jsonl", REVIEWS if family == "bert" else ORDERS)
    expected, wide = run(base, rows, algo, "float32", tmp_path / "wide")
    losses, half = run(base, rows, algo, "float16", tmp_path / "half")
    np.testing.assert_allclose(losses, expected, rtol=4e-3)
    assert len(losses) == 5 and losses != expected
    assert half.names == wide.names
    rounded = []
    for name in half.names:
        assert half.info(name).dtype == "float32"
        values = half.read(name)
        rounded.append((values.astype(np.float16).astype(np.float32) == values).all())
    assert not all(rounded), "updates are kept to float32's last digit"
