"""The contract of every method, over every family, in both modes, on a net that was called before.

Identity at initialisation; after training only owned parameters moved and the output changed; the saved key set is exact; a saved delta
in a fresh net gives the same output; the folded base equals base plus delta; a missing site is an error.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun.checkpoint.delta import BaseIdentity, Manifest, read_delta, save_delta
from petrun.delta import METHODS, find_method
from petrun.errors import TargetError
from petrun.graph.freeze import freeze_all_but
from petrun.models.factory import load_model
from petrun.models.families import FAMILIES
from petrun.train.adamw import AdamW
from petrun.train.loss import SupervisedLoss
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep
from tests.tiny import CLASSIFIERS, CONFIGS, write_base

# Label -> (algorithm, settings): every algorithm, and the variants that compute something else.
SETTINGS = {
    "lora": ("lora", {"rank": 2, "alpha": 8.0}),
    "dora": ("lora", {"rank": 2, "alpha": 8.0, "variant": "dora"}),
    "pissa": ("lora", {"rank": 2, "alpha": 8.0, "variant": "pissa", "lora_plus_ratio": 2.0}),
    "adalora": ("adalora", {"rank": 1, "init_rank": 2, "alpha": 8.0, "tinit": 1, "tfinal": 6, "delta_t": 1}),
    "loha": ("loha", {"rank": 2, "alpha": 8.0}),
    "lokr": ("lokr", {"rank": 1, "alpha": 8.0}),
    "lokr-both": ("lokr", {"rank": 1, "alpha": 8.0, "decompose_both": True, "target": ("all-linear",)}),
    "vera": ("vera", {"rank": 6, "target": ("all-linear",)}),
    "oft": ("oft", {"block_size": 4}),
    "oft-blocks": ("oft", {"blocks": 2, "terms": 6, "target": ("all-linear",)}),
    "miss": ("miss", {"rank": 5, "target": ("all-linear",)}),
    "prefix": ("prefix", {"tokens": 3, "middle": 5}),
    "ptuning2": ("ptuning2", {"tokens": 3}),
    "ptuning2-projection": ("ptuning2", {"tokens": 3, "projection": True, "middle": 5}),
    "prompt": ("prompt", {"tokens": 3}),
    "ptuning": ("ptuning", {"tokens": 3, "middle": 5}),
    "ptuning-lstm": ("ptuning", {"tokens": 3, "encoder": "lstm", "middle": 5}),
    "adapter": ("adapter", {"bottleneck": 5}),
    "low-rank-adapter": ("low_rank_adapter", {"reduction_factor": 2, "low_rank_size": 2}),
    "lora-r-drop": ("lora+r_drop", {"rank": 2, "alpha": 8.0, "dropout": 0.2, "kl_weight": 0.5}),
    "ia3": ("ia3", {}),
    "bitfit": ("bitfit", {}),
    "lora-bitfit": ("lora+bitfit", {"rank": 2, "alpha": 8.0}),
    "full": ("full", {}),
    "rows": ("rows", {"rows": "0,5-8"}),
    "lora-rows": ("lora+rows", {"rank": 2, "alpha": 8.0, "rows": "4-11"}),
}
# Settings of an algorithm that stands above with others, and a join of two: with --all.
VARIANTS = ("pissa", "ptuning2-projection", "ptuning-lstm", "lora-bitfit", "rows", "lokr-both", "oft-blocks")
# These have no bias: what bitfit says there is in its own tests.
LACKING = {
    (label, family)
    for label in ("bitfit", "lora-bitfit")
    for family in ("llama", "phi3", "gemma", "mixtral", "qwen3_moe", "t5")
}
FAMILY_NAMES = list(CONFIGS)
ROWS, TOKENS = 3, 6


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {family: write_base(root / family, family) for family in FAMILY_NAMES}


def load(bases, family):
    return load_model(bases[family], num_labels=2 if family in CLASSIFIERS else None)


def rows(loaded):
    """(targets, inputs): a padded batch that suits the family."""
    rng = np.random.default_rng(5)
    segments = np.ones((ROWS, TOKENS), np.int32)
    segments[1, 4:] = 0
    ids = rng.integers(4, 12, (ROWS, TOKENS)).astype(np.int32) * segments
    table = {
        "input_ids": ids,
        "segment_ids": segments,
        "position_ids": np.maximum(np.cumsum(segments, 1) - 1, 0).astype(np.int32),
        "token_type_ids": np.zeros_like(ids),
        "decoder_input_ids": ids,
    }
    classes = loaded.family in CLASSIFIERS
    targets = (
        np.array([0, 1, 1], np.int32)
        if classes
        else np.where(segments == 1, np.roll(ids, -1, 1), -100).astype(np.int32)
    )
    return Tensor(targets), tuple(Tensor(table[name]) for name in loaded.inputs)


def output(loaded, inputs):
    loaded.net.set_train(False)
    values = loaded.net(*inputs).asnumpy()
    return values if values.ndim == 2 else values[0]


def test_the_matrix_is_complete():
    assert set(METHODS) == {name for algo, _ in SETTINGS.values() for name in algo.split("+")}
    assert set(FAMILIES) == set(FAMILY_NAMES)


def matrix():
    """Every label x family x mode; by default each label but the VARIANTS once, families and modes taking turns."""
    for i, label in enumerate(SETTINGS):
        families = [family for family in FAMILY_NAMES if (label, family) not in LACKING]
        for j, family in enumerate(families):
            for k, mode in enumerate((ms.GRAPH_MODE, ms.PYNATIVE_MODE)):
                by_default = label not in VARIANTS and (i % len(families), i // 3 % 2) == (j, k)
                marks = () if by_default else pytest.mark.all_only
                yield pytest.param(
                    label, family, mode, marks=marks, id=f"{label}-{family}-{'pynative' if k else 'graph'}"
                )


@pytest.mark.parametrize(("label", "family", "mode"), list(matrix()))
def test_contract(bases, tmp_path, label, family, mode):
    ms.set_context(mode=mode)
    try:
        check(bases, tmp_path, label, family)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def check(bases, tmp_path, label, family):
    algo, settings = SETTINGS[label]
    method = find_method(algo)
    config = method.config(**settings)
    loaded = load(bases, family)
    targets, inputs = rows(loaded)
    before = output(loaded, inputs)
    base = {p.name: p.asnumpy().copy() for p in loaded.net.get_parameters()}
    owned = method.attach(loaded.net, config, loaded.sites, 0)
    assert owned
    started = output(loaded, inputs)
    assert started.shape == before.shape
    if method.identity:
        # Few rows of a linear layer without a delta are computed by an operator of their own, which adds in another order.
        np.testing.assert_allclose(started, before, rtol=1e-5, atol=5e-6)
    trainable = freeze_all_but(loaded.net, owned, method.fixed)
    assert {p.name for p in trainable.parameters} == {n for n in owned if n.rpartition(".")[2] not in method.fixed}
    optimizer = AdamW(
        trainable.parameters,
        Schedule(kind="constant", peak=3e-2, warmup_steps=0, total_steps=9),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.01,
    )
    hook = method.hook(loaded.net, config, trainable.parameters, 9)
    step = TrainStep(method.wrap_loss(SupervisedLoss(loaded.net), loaded.net, config), optimizer, hook=hook)
    loaded.net.set_train(True)
    count = Tensor(float((targets.asnumpy() != -100).sum()), ms.float32)
    # What stands before a source changes the target's loss less than what stands before the tokens themselves.
    steps = 8 if loaded.is_encoder_decoder else 4
    losses = [float(step(True, count, targets, *inputs)[0].asnumpy()) for _ in range(steps)]
    assert losses[-1] < losses[0]
    if hook is None and getattr(config, "dropout", 0.0) == 0.0:
        check_executions(optimizer, lambda: step(True, count, targets, *inputs))
    after = output(loaded, inputs)
    # Logits of a small classifier may be as small as 1e-3 themselves.
    assert np.abs(after - started).max() > 1e-3 * min(1.0, np.abs(started).max())
    values = {p.name: p.asnumpy() for p in loaded.net.get_parameters()}
    moved = {name for name in base if not np.array_equal(base[name], values[name])}
    assert moved <= set(owned)
    round_trip(bases, tmp_path, family, method, config, {n: values[n] for n in owned}, inputs, after)
    if method.merge is not None:
        folded = merge(method, config, base, {n: values[n] for n in owned})
        merged = load(bases, family)
        for p in merged.net.get_parameters():
            p.set_data(Tensor(folded[p.name]))
        np.testing.assert_allclose(output(merged, inputs), after, atol=2e-5)


def check_executions(optimizer, run):
    """A compiled step gives the same gradients at every execution: an operator may be right at the first one alone."""
    for name in ("optim.peak_rate", "optim.last_rate"):
        next(p for p in optimizer.get_parameters() if p.name == name).set_data(Tensor(0.0, ms.float32))
    norms = [float(run()[1].asnumpy()) for _ in range(3)]
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)


def merge(method, config, base, owned):
    """What a merge makes of every base tensor: trained parameters take the base's place, then the method's update."""
    update = method.merge(config, owned)
    return {name: update(name, owned.get(name, value)) for name, value in base.items()}


def round_trip(bases, tmp_path, family, method, config, values, inputs, expected):
    """Saved and loaded into a net that was called before, the delta gives the same output."""
    path = tmp_path / "delta.ckpt"
    save_delta(
        path, values, Manifest(algo=method.name, config=config.model_dump(mode="json"), base=BaseIdentity(digest="x"))
    )
    delta = read_delta(path)
    assert set(delta.shapes) == set(values)
    fresh = load(bases, family)
    output(fresh, inputs)
    method.attach(fresh.net, method.config.model_validate(delta.config), fresh.sites, 7)
    for p in fresh.net.get_parameters():
        if p.name in values:
            p.set_data(Tensor(np.array(delta.tensors[p.name])))
    np.testing.assert_allclose(output(fresh, inputs), expected, atol=1e-6)


def test_a_site_that_is_missing_is_an_error(bases):
    loaded = load(bases, "llama")
    with pytest.raises(TargetError, match="query"):
        METHODS["lora"].attach(loaded.net, METHODS["lora"].config(target=("query",)), loaded.sites, 0)
