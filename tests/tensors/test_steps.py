"""The newest checkpoint: by number, or not at all."""

from pathlib import Path

import pytest

from petrun.errors import DeltaError, WeightsError
from petrun.tensors.steps import newest, series_and_step


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("m-10_1", ("m", (10, 1))),
        ("llama_7b_rank-3_120", ("llama_7b_rank", (3, 120))),
        ("m_1-2_3", ("m_1", (2, 3))),
        ("m-3_5-10_1", ("m-3_5", (10, 1))),
        ("m-12", ("m", (12,))),
        ("step-20", ("", (20,))),
        ("lora_step20", ("lora", (20,))),
        ("STEP_7", ("", (7,))),
        ("model", ("model", ())),
        ("rank_0", ("rank_0", ())),
        ("best", ("best", ())),
        ("model-00001-of-00002", ("model-00001-of-00002", ())),
    ],
)
def test_steps(name, found):
    assert series_and_step(name) == found


def files(*names):
    return [Path("ckpts") / name for name in names]


def test_ten_is_newer_than_nine():
    """transform_checkpoints takes the last of the alphabet, m-9_1."""
    assert newest(files("m-9_1.ckpt", "m-10_1.ckpt", "m-2_40.ckpt"), path=Path("ckpts")).name == "m-10_1.ckpt"
    assert newest(files("m-9_9.ckpt", "m-9_10.ckpt"), path=Path("ckpts")).name == "m-9_10.ckpt"
    assert newest(files("only.ckpt"), path=Path("ckpts")).name == "only.ckpt"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("m-9_1.ckpt", "n-10_1.ckpt"), "do not say which is the newest: m-9_1.ckpt, n-10_1.ckpt"),
        (("m-9_1.ckpt", "best.ckpt"), "do not say"),
        (("a.ckpt", "b.ckpt"), "do not say"),
        (("m-9_1.ckpt", "m-10.ckpt"), "do not say"),
        (("m-9_1.ckpt", "m-9_1.safetensors"), "are of the same step"),
        (("m-9_1.ckpt", "m-09_1.ckpt"), "are of the same step"),
    ],
)
def test_it_is_not_guessed(names, said):
    with pytest.raises(WeightsError, match=said):
        newest(files(*names), path=Path("ckpts"))
    with pytest.raises(DeltaError, match=said):
        newest(files(*names), path=Path("ckpts"), error=DeltaError)
