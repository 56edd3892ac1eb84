"""Sums of deltas against the same sums of dense matrices."""

import numpy as np
import pytest

from petrun.algebra.comparison import compared, norms
from petrun.algebra.derived import derived, refuse_other_bases
from petrun.algebra.full_tensors import NeedsBase
from petrun.algebra.low_rank import Keep
from petrun.algebra.plain_lora import as_lora
from petrun.algebra.sums import Term, added, compressed
from petrun.algebra.ties_dare import Dare, Ties, trim
from petrun.checkpoint.delta import BaseIdentity, Delta, Manifest, read_delta, save_delta
from petrun.delta import find_method
from petrun.errors import ConfigError, DeltaError
from tests.checkpoint.toy_family import HIDDEN, lora_arrays, shape_of

PATHS = ("layers.0.attn.q", "layers.1.attn.v", "layers.1.mlp.up")
HEAD = ("classifier.weight", "classifier.bias")
BIASES = ("layers.0.attn.q.bias", "layers.1.attn.q.bias")
MARK = "mindpet_delta_"


class Base:
    """The base's values by name, as BaseArrays has them."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __contains__(self, name):
        return name in self.arrays

    def __getitem__(self, name):
        return self.arrays[name]


@pytest.fixture
def base(base_arrays):
    return Base(base_arrays)


def make(tmp_path, algo, arrays, name, fresh=(), **config):
    """A delta as the commands open it: its settings complete."""
    method = find_method(algo)
    settings = method.config(**config).model_dump(mode="json")
    manifest = Manifest(algo=algo, config=settings, family="toy", base=BaseIdentity(digest="d", fresh=fresh))
    save_delta(tmp_path / name, arrays, manifest)
    return read_delta(tmp_path / name)


def head(seed, classes=3):
    rng = np.random.default_rng(seed)
    shapes = ((classes, HIDDEN), (classes,))
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in zip(HEAD, shapes, strict=True)}


def adalora_arrays(paths, seed=5):
    rng = np.random.default_rng(seed)
    arrays = {}
    for i, path in enumerate(paths):
        out, width = shape_of(f"{path}.weight")
        arrays[f"{path}.{MARK}adalora_a"] = rng.standard_normal((3, width)).astype(np.float32)
        arrays[f"{path}.{MARK}adalora_b"] = rng.standard_normal((out, 3)).astype(np.float32)
        arrays[f"{path}.{MARK}adalora_e"] = rng.standard_normal(3).astype(np.float32)
        arrays[f"{path}.{MARK}adalora_keep"] = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0]][i % 3], np.float32)
    return arrays


def pissa_arrays(paths, seed=6):
    plain, start = lora_arrays(paths, seed=seed), lora_arrays(paths, seed=seed + 1)
    return {**plain, **{f"{name}0": values for name, values in start.items()}}


@pytest.fixture
def kin(tmp_path):
    """One delta of every kind that adds a product."""
    return {
        "lora": make(
            tmp_path, "lora", lora_arrays(PATHS, {PATHS[1]: 3}), "lora.ckpt",
            rank=2, alpha=5.0, rank_pattern={PATHS[1]: 3}, alpha_pattern={PATHS[2]: 1.5},
        ),
        "rslora": make(tmp_path, "lora", lora_arrays(PATHS[:2], seed=4), "rs.ckpt", rank=2, alpha=3.0, variant="rslora"),
        "pissa": make(tmp_path, "lora", pissa_arrays(PATHS), "pissa.safetensors", rank=2, alpha=4.0, variant="pissa"),
        "adalora": make(tmp_path, "adalora", adalora_arrays(PATHS), "ada.ckpt", rank=2, init_rank=3, alpha=6.0),
    }  # fmt: skip


def updates(delta, base):
    """Path -> what the delta's own merge adds, in float64: the reference."""
    method = find_method(delta.algo)
    merge = method.merge(method.config(**delta.config), delta.tensors)
    found = {}
    for path in PATHS:
        own = np.zeros(shape_of(f"{path}.weight"), np.float32)
        found[path] = merge(f"{path}.weight", own).astype(np.float64)
    return found


def as_delta(made, tmp_path, sources):
    manifest, _ = derived(sources, made, ["test"])
    path = tmp_path / "made.safetensors"
    path.unlink(missing_ok=True)
    save_delta(path, made.tensors, manifest)
    return read_delta(path)


def test_every_kin_is_a_plain_lora(tmp_path, base, kin):
    for name, delta in kin.items():
        plain = as_lora(delta)
        assert (plain.algo, plain.config["variant"]) == ("lora", "lora")
        want, got = updates(delta, base), updates(plain, base)
        for path in PATHS:
            np.testing.assert_allclose(got[path], want[path], rtol=0, atol=3e-5)
        if name in ("lora", "rslora"):
            assert all(np.array_equal(plain.tensors[n], delta.tensors[n]) for n in delta.tensors)
    ranks = {n: v.shape[0] for n, v in as_lora(kin["adalora"]).tensors.items() if n.endswith("_a")}
    assert sorted(ranks.values()) == [1, 2, 3]
    assert as_lora(kin["pissa"]).config["rank"] == 4


def test_a_sum_is_exact_over_kinds(tmp_path, base, kin):
    weights = {"lora": 0.7, "rslora": -1.3, "pissa": 0.5, "adalora": 2.0}
    terms = [Term(kin[name], weight) for name, weight in weights.items()]
    made = added(terms)
    total = as_delta(made, tmp_path, [term.delta for term in terms])
    got = updates(total, base)
    for path in PATHS:
        want = sum(weight * updates(kin[name], base)[path] for name, weight in weights.items())
        np.testing.assert_allclose(got[path], want, rtol=0, atol=1e-4)
    assert made.relative < 1e-6 and [layer.rank for layer in made.layers] == [10, 12, 7]
    # One term of weight 1 changes no bit.
    same = added([Term(kin["lora"], 1.0)])
    assert all(np.array_equal(same.tensors[n], kin["lora"].tensors[n]) for n in kin["lora"].tensors)
    doubled = added([Term(kin["lora"], 2.0)])
    assert all(np.array_equal(doubled.tensors[n], kin["lora"].tensors[n]) for n in kin["lora"].tensors)
    assert doubled.config["alpha"] == 2 * kin["lora"].config["alpha"]


def test_a_truncated_sum_says_what_it_lost(tmp_path, base, kin):
    terms = [Term(kin["lora"], 1.0), Term(kin["adalora"], 1.0)]
    made = added(terms, keep=Keep(rank=2))
    got = updates(as_delta(made, tmp_path, [t.delta for t in terms]), base)
    lost = norm = 0.0
    for layer in made.layers:
        want = sum(updates(term.delta, base)[layer.path] for term in terms)
        values = np.linalg.svd(want, compute_uv=False)
        assert layer.error == pytest.approx(np.sqrt((values[2:] ** 2).sum()), rel=1e-4, abs=1e-5)
        assert np.linalg.norm(got[layer.path] - want) == pytest.approx(layer.error, rel=1e-4, abs=1e-5)
        lost, norm = lost + layer.error**2, norm + np.linalg.norm(want) ** 2
    assert made.relative == pytest.approx(np.sqrt(lost / norm), rel=1e-4, abs=1e-5)
    small = compressed(as_lora(kin["pissa"]), Keep(energy=1.0))
    assert small.relative < 1e-6 and max(layer.rank for layer in small.layers) <= 4


def test_ties_by_hand():
    """Two changes: trimmed to half, signs elected, those that agree averaged."""
    one = np.array([4.0, -1.0, 3.0, 0.5], np.float32)
    other = np.array([-2.0, 5.0, 1.0, 0.1], np.float32)
    np.testing.assert_array_equal(trim(one, 0.5), [4.0, 0.0, 3.0, 0.0])
    got = Ties(0.5)("x", [one, other], [1.0, 1.0])
    np.testing.assert_allclose(got, [4.0, 5.0, 3.0, 0.0], atol=0)
    # The second counts three times: its sign wins the first entry.
    np.testing.assert_allclose(Ties(0.5)("x", [one, other], [1.0, 3.0]), [-2.0, 5.0, 3.0, 0.0], atol=1e-6)
    both = Ties(1.0)("x", [one, one * 3], [1.0, 3.0])
    np.testing.assert_allclose(both, one * 2.5, rtol=1e-6)
    with pytest.raises(ConfigError, match="must be above 0"):
        Ties(0.5)("x", [one, other], [1.0, -1.0])


def test_dare_keeps_the_mean_and_follows_its_seed():
    change = np.ones((300, 300), np.float32)
    dropped = Dare(0.75, seed=3)("layer", [change], [2.0])
    assert set(np.unique(dropped)) == {0.0, 8.0} and abs(dropped.mean() - 2.0) < 0.1
    np.testing.assert_array_equal(dropped, Dare(0.75, seed=3)("layer", [change], [2.0]))
    assert not np.array_equal(dropped, Dare(0.75, seed=4)("layer", [change], [2.0]))
    assert not np.array_equal(dropped, Dare(0.75, seed=3)("other", [change], [2.0]))
    np.testing.assert_array_equal(Dare(0.0)("layer", [change, change], [0.25, 0.5]), 0.75 * change)


def test_ties_and_dare_of_products(tmp_path, base, kin):
    terms = [Term(kin["lora"], 1.0), Term(kin["pissa"], 1.0)]
    for combine in (Ties(0.3), Dare(0.5, 1)):
        made = added(terms, combine=combine, keep=Keep(rank=5))
        got = updates(as_delta(made, tmp_path, [t.delta for t in terms]), base)
        for layer in made.layers:
            changes = [updates(t.delta, base)[layer.path].astype(np.float32) for t in terms]
            want = combine(layer.path, changes, [1.0, 1.0])
            values = np.linalg.svd(want.astype(np.float64), compute_uv=False)
            assert layer.error == pytest.approx(np.sqrt((values[5:] ** 2).sum()), rel=1e-3, abs=1e-4)
            assert np.linalg.norm(got[layer.path] - want) == pytest.approx(layer.error, rel=1e-3, abs=1e-4)


def test_whole_tensors(tmp_path, base, base_arrays):
    rng = np.random.default_rng(2)
    values = [{n: rng.standard_normal(HIDDEN).astype(np.float32) for n in BIASES} for _ in range(2)]
    one, other = (make(tmp_path, "bitfit", v, f"{i}.ckpt") for i, v in enumerate(values))
    mean = added([Term(one, 0.25), Term(other, 0.75)])
    assert mean.algo == "bitfit" and mean.config["bias_include"] == sorted(BIASES)
    for name in BIASES:
        np.testing.assert_allclose(mean.tensors[name], 0.25 * values[0][name] + 0.75 * values[1][name], atol=1e-6)
    with pytest.raises(NeedsBase, match="is trained as a whole"):
        added([Term(one, 1.0), Term(other, 1.0)])
    total = added([Term(one, 1.0), Term(other, 1.0)], base=base)
    for name in BIASES:
        want = values[0][name] + values[1][name] - base_arrays[name]
        np.testing.assert_allclose(total.tensors[name], want, atol=1e-6)
    ties = added([Term(one, 1.0), Term(other, 1.0)], base=base, combine=Ties(1.0))
    for name in BIASES:
        changes = [v[name] - base_arrays[name] for v in values]
        want = base_arrays[name] + Ties(1.0)(name, changes, [1.0, 1.0])
        np.testing.assert_allclose(ties.tensors[name], want, atol=1e-6)
    everything = [{n: a + i for n, a in base_arrays.items()} for i in (1, 2)]
    full = [make(tmp_path, "full", v, f"full{i}.safetensors") for i, v in enumerate(everything)]
    both = as_delta(added([Term(d, 1.0) for d in full], base=base), tmp_path, full)
    assert both.algo == "full"
    for name, own in base_arrays.items():
        np.testing.assert_allclose(both.tensors[name], own + 3, atol=1e-5)


def test_heads(tmp_path, base):
    one, other = (
        make(tmp_path, "lora", {**lora_arrays(PATHS, seed=i), **head(i)}, f"{i}.ckpt", fresh=HEAD, rank=2)
        for i in (1, 2)
    )
    made = added([Term(one, 1.0), Term(other, 3.0)])
    for name in HEAD:
        want = 0.25 * one.tensors[name] + 0.75 * other.tensors[name]
        np.testing.assert_allclose(made.tensors[name], want, atol=1e-6)
    assert "averaged by the weights" in made.notes[0]
    manifest, _ = derived([one, other], made, ["x"])
    assert manifest.base.fresh == HEAD and manifest.base.digest == "d"
    third = make(tmp_path, "lora", {**lora_arrays(PATHS), **head(3, 2)}, "3.ckpt", fresh=HEAD, rank=2)
    with pytest.raises(DeltaError, match="Heads of different tasks do not add up"):
        added([Term(one, 1.0), Term(third, 1.0)])
    with pytest.raises(DeltaError, match="cancel out"):
        added([Term(one, 1.0), Term(other, -1.0)])
    joint = make(
        tmp_path, "lora+bitfit", {**lora_arrays(PATHS), **{n: np.ones(HIDDEN, np.float32) for n in BIASES}, **head(1)},
        "joint.ckpt", fresh=HEAD, rank=2,
    )  # fmt: skip
    mixed = added([Term(one, 0.5), Term(joint, 1.0)])
    assert mixed.algo == "lora+bitfit" and mixed.config["bias_include"] == sorted(BIASES)


def test_what_is_no_sum(tmp_path, kin):
    ia3 = make(tmp_path, "ia3", {f"{PATHS[0]}.{MARK}ia3_l": np.ones(HIDDEN, np.float32)}, "ia3.ckpt")
    with pytest.raises(DeltaError, match="multiplies what a layer gives"):
        added([Term(ia3, 1.0)])
    dora = make(tmp_path, "lora", lora_arrays(PATHS), "dora.ckpt", rank=2, variant="dora")
    with pytest.raises(DeltaError, match="magnitudes multiply"):
        as_lora(dora)
    bitfit = make(tmp_path, "bitfit", {n: np.ones(HIDDEN, np.float32) for n in BIASES}, "b.ckpt")
    with pytest.raises(DeltaError, match="no common form"):
        added([Term(kin["lora"], 1.0), Term(bitfit, 1.0)])
    with pytest.raises(DeltaError, match="of whole tensors"):
        compressed(bitfit, Keep(rank=1))
    with pytest.raises(DeltaError, match="have no rank to cut"):
        added([Term(bitfit, 1.0)], keep=Keep(rank=1))
    wrong = make(tmp_path, "lora", lora_arrays(PATHS), "wrong.ckpt", rank=3)
    with pytest.raises(DeltaError, match="do not multiply at rank 3"):
        added([Term(wrong, 1.0)])
    half = {n: a for n, a in lora_arrays(PATHS).items() if n != f"{PATHS[1]}.{MARK}lora_b"}
    with pytest.raises(DeltaError, match=f"lacks {PATHS[1]}.{MARK}lora_b"):
        added([Term(make(tmp_path, "lora", half, "half.ckpt", rank=2), 1.0)])


def test_other_bases(kin, tmp_path):
    other = kin["lora"].manifest.model_copy(update={"base": BaseIdentity(digest="e")})
    save_delta(tmp_path / "other.ckpt", {n: kin["lora"].tensors[n] for n in kin["lora"].tensors}, other)
    with pytest.raises(DeltaError, match="belong to different bases"):
        refuse_other_bases([kin["lora"], read_delta(tmp_path / "other.ckpt")])


def test_comparison(base, kin):
    one, other = kin["lora"], kin["rslora"]
    first, second = updates(one, base), updates(other, base)
    pairs = {pair.name: pair for pair in compared(one, other)}
    assert list(pairs) == list(PATHS) and pairs[PATHS[2]].second is None
    for path in PATHS[:2]:
        a, b = first[path], second[path]
        assert pairs[path].cosine == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
        assert pairs[path].difference == pytest.approx(np.linalg.norm(b - a), rel=1e-5, abs=1e-6)
    listed = {each.name: each for each in norms(kin["adalora"])}
    want = updates(kin["adalora"], base)
    assert {path: each.norm for path, each in listed.items()} == pytest.approx(
        {path: np.linalg.norm(want[path]) for path in PATHS}, rel=1e-5, abs=1e-6
    )
    assert isinstance(one, Delta)
