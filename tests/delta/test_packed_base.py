"""Every method on a base in 8 and 4 bits does what it does on the same values in full precision."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun.delta import find_method
from petrun.errors import TrainingError
from petrun.graph.freeze import freeze_all_but, trainable_of
from petrun.graph.packed_weight import packed_weights, weight_values
from petrun.graph.surgery import cells
from petrun.models.factory import ModelSource, load_model
from petrun.train.adamw import AdamW
from petrun.train.loss import SupervisedLoss
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep
from tests.delta.test_contract import LACKING, SETTINGS, output, rows
from tests.tiny import CLASSIFIERS, write_base

FAMILIES = ("llama", "bert", "gpt2")
DEFAULT = {
    ("lora", "llama", "nf4", ms.GRAPH_MODE),
    ("low-rank-adapter", "llama", "int8", ms.PYNATIVE_MODE),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {family: write_base(root / family, family) for family in FAMILIES}


def packed(bases, family, form):
    source = ModelSource(base=bases[family], quantisation=form)
    return load_model(source, num_labels=2 if family in CLASSIFIERS else None)


def dequantised(bases, family, of):
    """The same net in full precision, with the values of the net `of`."""
    loaded = load_model(bases[family], num_labels=2 if family in CLASSIFIERS else None)
    theirs, ours = cells(of.net), cells(loaded.net)
    for path, cell in theirs.items():
        if getattr(cell, "packed", None) is not None:
            ours[path].weight.set_data(Tensor(weight_values(cell)))
    return loaded


def trained(loaded, label, steps=5):
    """Losses of some steps, and the output after them."""
    algo, settings = SETTINGS[label]
    method = find_method(algo)
    config = method.config(**settings)
    targets, inputs = rows(loaded)
    owned = method.attach(loaded.net, config, loaded.sites, 0)
    trainable = freeze_all_but(loaded.net, owned, method.fixed)
    schedule = Schedule(kind="constant", peak=1e-2, warmup_steps=0, total_steps=9)
    optimizer = AdamW(trainable.parameters, schedule, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)
    hook = method.hook(loaded.net, config, trainable.parameters, 9)
    step = TrainStep(method.wrap_loss(SupervisedLoss(loaded.net), loaded.net, config), optimizer, hook=hook)
    loaded.net.set_train(True)
    count = Tensor(float((targets.asnumpy() != -100).sum()), ms.float32)
    return [float(step(True, count, targets, *inputs)[0].asnumpy()) for _ in range(steps)], output(loaded, inputs)


def matrix():
    for label in SETTINGS:
        for family in FAMILIES:
            if label == "full" or (label, family) in LACKING:
                continue
            for form in ("int8", "nf4"):
                for mode in (ms.GRAPH_MODE, ms.PYNATIVE_MODE):
                    marks = () if (label, family, form, mode) in DEFAULT else pytest.mark.all_only
                    yield pytest.param(label, family, form, mode, marks=marks, id=f"{label}-{family}-{form}-{mode}")


@pytest.mark.parametrize(("label", "family", "form", "mode"), list(matrix()))
def test_training_is_that_on_the_dequantised_weights(bases, label, family, form, mode):
    ms.set_context(mode=mode)
    try:
        loaded = packed(bases, family, form)
        assert loaded.quantisation == form and packed_weights(loaded.net)
        reference = dequantised(bases, family, loaded)
        losses, after = trained(loaded, label)
        expected, after_expected = trained(reference, label)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    np.testing.assert_allclose(after, after_expected, atol=1e-3)
    assert losses[-1] != losses[0]


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_full_is_refused_with_the_reason(bases, form):
    loaded = packed(bases, "llama", form)
    every = [p.name for p in loaded.net.get_parameters()]
    with pytest.raises(TrainingError, match=rf"codes of {form}") as refused:
        freeze_all_but(loaded.net, every)
    assert "--base-bits none" in refused.value.hint


def test_values_in_codes_count_among_all_values(bases):
    full = load_model(bases["llama"])
    loaded = packed(bases, "llama", "nf4")
    assert trainable_of(loaded.net).all_values == trainable_of(full.net).all_values
