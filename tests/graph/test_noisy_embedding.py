"""NEFTune: the noise is the formula's, for training alone, and what a delta puts before the row has none."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from petrun.delta import METHODS
from petrun.errors import TargetError
from petrun.graph.noisy_embedding import add_noise
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells
from petrun.models.factory import load_model
from tests.kernels.counter_hash import reference_uniform
from tests.tiny import ORDERS, write_base, write_rows

IDS = np.int32([[4, 5, 6, 7, 4], [8, 9, 4, 0, 0]])
STEP = 3


@pytest.fixture(autouse=True)
def third_step():
    kernels.step_counter().set_data(Tensor(STEP, ms.int32))
    kernels.batch_offset().set_data(Tensor([0, len(IDS)], ms.int32))
    yield
    kernels.step_counter().set_data(Tensor(0, ms.int32))
    kernels.batch_offset().set_data(Tensor([0, 1], ms.int32))


def embedded(loaded, train):
    cell = cells(loaded.net)[loaded.sites.embedding]
    return cell.set_train(train)(Tensor(IDS)).asnumpy()


def test_noise_is_the_formulas_and_only_training_has_it(mode, tmp_path):
    """transformers draws from [-a / sqrt(T H), a / sqrt(T H)]."""
    loaded = load_model(write_base(tmp_path / "gpt2", "gpt2"), task="lm")
    names = [p.name for p in loaded.net.get_parameters()]
    plain = embedded(loaded, True)
    add_noise(loaded.net, loaded.sites, 5.0, seed=7)
    assert [p.name for p in loaded.net.get_parameters()] == names
    noise = (2.0 * reference_uniform(7, "neftune", STEP, plain.shape) - 1.0) * 5.0 / np.sqrt(plain[0].size)
    np.testing.assert_allclose(embedded(loaded, True), plain + noise, atol=1e-6)
    np.testing.assert_array_equal(embedded(loaded, False), plain)


@pytest.mark.parametrize(
    ("algo", "settings"), [("prompt", {"tokens": 3}), ("rows", {"rows": "4-6"}), ("lora", {"target": ("embed",)})]
)
def test_what_a_delta_made_of_the_embedding_keeps_its_place(pynative, tmp_path, algo, settings):
    loaded = load_model(write_base(tmp_path / "llama", "llama"), task="lm")
    method = METHODS[algo]
    owned = method.attach(loaded.net, method.config(**settings), loaded.sites, 0)
    before, names = embedded(loaded, True), [p.name for p in loaded.net.get_parameters()]
    add_noise(loaded.net, loaded.sites, 5.0, seed=7)
    assert [p.name for p in loaded.net.get_parameters()] == names and set(owned) <= set(names)
    apart = np.abs(embedded(loaded, True) - before)
    assert apart.max() <= 5.0 / np.sqrt(before[0].size) + 1e-6 and (apart > 0).mean() > 0.99
    if algo == "prompt":
        cell = cells(loaded.net)[loaded.sites.embedding]
        np.testing.assert_array_equal(cell.prompt(1, ms.float32).asnumpy()[0], cell.encoder().asnumpy())


def test_a_net_without_a_named_embedding_is_refused(tmp_path):
    loaded = load_model(write_base(tmp_path / "gpt2", "gpt2"), task="lm")
    with pytest.raises(TargetError, match="names no token embedding"):
        add_noise(loaded.net, Sites(), 5.0, seed=7)


def test_a_run_with_noise(place, petrun):
    """The base's figures are those without noise, the steps' are not; and the run goes on from a state with the bits that it had."""
    write_base(place / "base", "gpt2", n_layer=1)
    write_rows(place / "rows.jsonl", ORDERS)
    line = "train --base base --data rows.jsonl --eval-data rows.jsonl --lr 0.01 --epochs 2 --batch-size 2 "
    assert petrun(line + "--out plain").code == petrun(line + "--neftune-alpha 5 --out noisy").code == 0
    plain, noisy = (
        [json.loads(entry) for entry in (place / name / "log.jsonl").read_text().splitlines()]
        for name in ("plain", "noisy")
    )
    assert [log[0]["evaluation"] for log in (plain,)] == [log[0]["evaluation"] for log in (noisy,)]
    assert [e["loss"] for e in plain if "loss" in e] != [e["loss"] for e in noisy if "loss" in e]
    done = petrun("resume --verify noisy")
    assert done.code == 0, done.err
    done = petrun("rehearse --base base --algo lora --cards 2 --parallel tp=2 --set train.neftune_alpha=5")
    assert done.code == 2 and "--neftune-alpha: noise on embedded tokens is not for --parallel dp=1,tp=2" in done.err
