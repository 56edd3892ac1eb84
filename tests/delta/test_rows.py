"""Rows of the token table: what trains, what keeps its bits, tied and untied, and what is refused."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from pydantic import ValidationError

from petrun.delta import METHODS, find_method
from petrun.delta.rows import ROWS, RowsConfig, ids_of, parse_rows, spell_rows
from petrun.errors import ConfigError, TargetError
from petrun.graph.freeze import freeze_all_but
from petrun.models.factory import load_model
from petrun.train.adamw import AdamW
from petrun.train.loss import SupervisedLoss
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep
from tests.tiny import write_base

IDS = np.array([[4, 7, 200, 9, 7, 5], [201, 6, 8, 0, 0, 0]], np.int32)
CHOSEN = [0, 7, 200, 201]


def inputs():
    segments = (np.arange(6) < np.array([[6], [3]])).astype(np.int32)
    positions = np.maximum(np.cumsum(segments, 1) - 1, 0).astype(np.int32)
    targets = np.where(segments == 1, np.roll(IDS, -1, 1), -100).astype(np.int32)
    return Tensor(targets), (Tensor(IDS), Tensor(segments), Tensor(positions))


def test_ids_are_spelled_as_ranges():
    assert parse_rows("120-122, 7,123") == ((7, 8), (120, 124))
    assert spell_rows([201, 7, 200, 0]) == "0,7,200-201" and ids_of("0,7,200-201").tolist() == CHOSEN
    assert RowsConfig(rows=7).rows == "7" and RowsConfig(rows=" new").rows == "new"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9-3", "ends before it begins"),
        ("3,1-4", "3 stands twice"),
        ("", "not a token id"),
        ("3,x", "'x' is not a token"),
    ],
)
def test_ids_that_do_not_read(text, said):
    with pytest.raises(ValidationError, match=said):
        RowsConfig(rows=text)


def gradients(net, names, targets, rows):
    """The loss, and the gradient of each of the parameters."""
    loss = SupervisedLoss(net)
    chosen = [p for p in net.get_parameters() if p.name in names]
    count = Tensor(float((targets.asnumpy() != -100).sum()), ms.float32)
    (value, _), found = ms.value_and_grad(loss, None, chosen, has_aux=True)(count, targets, *rows)
    return float(value.asnumpy()), {p.name: g.asnumpy() for p, g in zip(chosen, found, strict=True)}


@pytest.mark.parametrize(
    ("mode", "tied"),
    [
        (ms.GRAPH_MODE, True),
        (ms.PYNATIVE_MODE, False),
        pytest.param(ms.GRAPH_MODE, False, marks=pytest.mark.all_only),
        pytest.param(ms.PYNATIVE_MODE, True, marks=pytest.mark.all_only),
    ],
)
def test_the_gradient_is_that_of_the_full_tables_at_these_rows(tmp_path, mode, tied):
    """Given the base's rows as values: the loss is the base's, and what they learn is the table's gradient, rows picked out."""
    ms.set_context(mode=mode)
    try:
        base = write_base(tmp_path, "llama", tie_word_embeddings=tied)
        whole, part = load_model(base), load_model(base)
        targets, rows = inputs()
        tables = {"embed.weight"} if tied else {"embed.weight", "head.weight"}
        loss, full = gradients(whole.net, tables, targets, rows)
        config = RowsConfig(rows=spell_rows(CHOSEN))
        owned = METHODS["rows"].attach(part.net, config, part.sites, 0)
        assert set(owned) == {f"{name.removesuffix('.weight')}.{ROWS}" for name in tables}
        same, found = gradients(part.net, set(owned), targets, rows)
        assert same == pytest.approx(loss, abs=1e-6)
        for name in tables:
            picked = full[name][CHOSEN]
            assert np.abs(picked).max() > 1e-4
            np.testing.assert_allclose(found[f"{name.removesuffix('.weight')}.{ROWS}"], picked, atol=1e-6)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def test_old_rows_keep_their_bits_and_have_no_state(tmp_path):
    loaded = load_model(write_base(tmp_path, "gpt2"))
    method = find_method("lora+rows")
    config = method.config(rank=2, rows=spell_rows(CHOSEN))
    before = {p.name: p.asnumpy().copy() for p in loaded.net.get_parameters()}
    owned = method.attach(loaded.net, config, loaded.sites, 0)
    trainable = freeze_all_but(loaded.net, owned, method.fixed)
    schedule = Schedule(kind="constant", peak=1e-2, warmup_steps=0, total_steps=3)
    optimizer = AdamW(trainable.parameters, schedule, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1)
    step = TrainStep(SupervisedLoss(loaded.net), optimizer)
    loaded.net.set_train(True)
    targets, rows = inputs()
    for _ in range(3):
        step(True, Tensor(6.0, ms.float32), targets, *rows)
    states = [p for p in optimizer.get_parameters() if p.name.endswith(f"embed.{ROWS}") and p.name.startswith("adam_")]
    assert {tuple(p.shape) for p in states} == {(len(CHOSEN), before["embed.weight"].shape[1])} and len(states) == 2
    values = {p.name: p.asnumpy() for p in loaded.net.get_parameters()}
    assert all(np.array_equal(values[name], before[name]) for name in before)
    trained = {name: values[name] for name in owned}
    merged = method.merge(config, trained)("embed.weight", before["embed.weight"])
    old = np.setdiff1d(np.arange(len(merged)), CHOSEN)
    assert np.array_equal(merged[old], before["embed.weight"][old])
    assert np.array_equal(merged[CHOSEN], trained[f"embed.{ROWS}"])
    assert (merged[CHOSEN] != before["embed.weight"][CHOSEN]).any(axis=1).all()
    # A matrix in blocks of rows, as a merge passes a large one.
    update = method.merge(config, trained)
    blocks = [
        update("embed.weight", before["embed.weight"][i : i + 90], slice(i, i + 90)) for i in range(0, len(merged), 90)
    ]
    assert np.array_equal(np.concatenate(blocks), merged)


def test_what_is_refused(tmp_path):
    loaded = load_model(write_base(tmp_path, "gpt2"))
    rows = METHODS["rows"]
    with pytest.raises(TargetError, match="does not say which of its rows are new"):
        rows.attach(loaded.net, RowsConfig(), loaded.sites, 0)
    with pytest.raises(TargetError, match=r"delta.rows 5,900: the token table has \d+ rows"):
        rows.attach(loaded.net, RowsConfig(rows="5,900"), loaded.sites, 0)
    scattered = ",".join(str(i) for i in range(0, 140, 2))
    with pytest.raises(TargetError, match="70 separate runs of ids, 64 are possible"):
        rows.attach(loaded.net, RowsConfig(rows=scattered), loaded.sites, 0)
    with pytest.raises(ConfigError, match="full trains all of the base, rows a part of it"):
        find_method("full+rows")
    both = find_method("lora+rows")
    with pytest.raises(TargetError, match="embed cannot be a target of lora"):
        both.attach(loaded.net, both.config(rows="5", target=("embed",)), loaded.sites, 0)
