"""AdaLoRA against numpy: the forward pass, and whole runs step by step: loss, gradient, AdamW, importance, budget and masks."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.delta import adalora, find_method
from petrun.delta.adalora import ADALORA_A, ADALORA_B, ADALORA_E, ADALORA_KEEP, AdaLoraConfig
from petrun.delta.adalora.budget import budget_plan
from petrun.errors import ConfigError
from petrun.graph.freeze import freeze_all_but
from petrun.graph.sites import Sites
from petrun.train.adamw import AdamW
from petrun.train.loss import SupervisedLoss
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep

METHOD = adalora.METHOD
ROWS, WIDE, MIDDLE, CLASSES = 6, 5, 7, 4
LR, DECAY, CLIP = 2e-2, 0.1, 1.0


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X = numbers((ROWS, 2, WIDE), 8)
Y = np.random.default_rng(9).integers(0, CLASSES, (ROWS, 2)).astype(np.int32)
Y[0, 1] = Y[4, 0] = Y[5, 0] = -100
COUNT = int((Y != -100).sum())


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = nn.Dense(WIDE, MIDDLE, weight_init=Tensor(numbers((MIDDLE, WIDE), 1)), bias_init="zeros")
        self.last = nn.Dense(MIDDLE, CLASSES, weight_init=Tensor(numbers((CLASSES, MIDDLE), 2)), has_bias=False)

    def construct(self, x):
        return self.last(ops.relu(self.first(x)))


class Run:
    """A net with AdaLoRA, and its compiled step."""

    def __init__(self, config, total_steps, accumulate=1, algo="adalora"):
        self.net = Net()
        method = find_method(algo)
        owned = method.attach(self.net, config, Sites(), 3)
        self.parameters = {p.name: p for p in self.net.get_parameters()}
        for name in owned:
            # Singular values that are not 0, so that everything has a gradient from the first step on.
            if name.endswith(ADALORA_E):
                self.parameters[name].set_data(Tensor(0.1 * numbers(self.parameters[name].shape, len(name))))
        trainable = freeze_all_but(self.net, owned, method.fixed)
        optimizer = AdamW(
            trainable.parameters,
            Schedule(kind="constant", peak=LR, warmup_steps=0, total_steps=99),
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=DECAY,
        )
        self.hook = method.hook(self.net, config, trainable.parameters, total_steps)
        loss = method.wrap_loss(SupervisedLoss(self.net), self.net, config)
        self.step = TrainStep(loss, optimizer, accumulate=accumulate, clip=CLIP, hook=self.hook)
        self.net.set_train(True)

    def value(self, name):
        return self.parameters[name].asnumpy().copy()

    def stepped(self, x):
        return self.step(True, Tensor(float(COUNT), ms.float32), Tensor(Y), Tensor(x))

    def update(self):
        return float(self.stepped(X)[0].asnumpy())

    def update_with_nan(self):
        """Of a row that is not finite nothing may stay behind, in the delta, the optimizer or AdaLoRA's notes."""
        before = {p.name: p.asnumpy().tobytes() for p in self.step.get_parameters()}
        assert len(before) > 20 and not bool(self.stepped(np.full_like(X, np.nan))[3].asnumpy())
        for p in self.step.get_parameters():
            assert p.asnumpy().tobytes() == before[p.name], p.name


class Reference:
    """The algorithm in float64 numpy, written from the paper for this net: two layers, relu, softmax."""

    layers = ("first", "last")

    def __init__(self, run, config, total):
        leaves = {"A": ADALORA_A, "B": ADALORA_B, "e": ADALORA_E, "keep": ADALORA_KEEP}
        values = {
            (k, part): run.value(f"{k}.{leaf}").astype(np.float64) for k in self.layers for part, leaf in leaves.items()
        }
        self.keep = {k: values.pop((k, "keep")) for k in self.layers}
        self.w = values
        self.base = {k: run.value(f"{k}.weight").astype(np.float64) for k in self.layers}
        self.config, self.total = config, total
        self.m, self.v, self.ipt, self.unc = ({key: np.zeros_like(x) for key, x in values.items()} for _ in range(4))
        self.t = 0
        self.begin, self.end = int(config.tinit), int(config.tfinal)
        self.masked = None

    def weight(self, k):
        e = self.w[k, "e"] * self.keep[k]
        return self.base[k] + self.config.scale * self.w[k, "B"] @ np.diag(e) @ self.w[k, "A"]

    def gradients(self):
        """(loss, gradients of A, B and e) of both layers."""
        x, y = X.reshape(-1, WIDE).astype(np.float64), Y.reshape(-1)
        known = y != -100
        hidden = x @ self.weight("first").T
        active = np.maximum(hidden, 0)
        logits = active @ self.weight("last").T
        exp = np.exp(logits - logits.max(1, keepdims=True))
        p = exp / exp.sum(1, keepdims=True)
        safe = np.where(known, y, 0)
        loss = -(np.log(p[np.arange(len(y)), safe]) * known).sum() / COUNT
        p[np.arange(len(y)), safe] -= 1
        d_logits = p * known[:, None] / COUNT
        d_hidden = (d_logits @ self.weight("last")) * (hidden > 0)
        full = {"last": d_logits.T @ active, "first": d_hidden.T @ x}
        grads = {}
        for k in self.layers:
            a, b, s = self.w[k, "A"], self.w[k, "B"], self.config.scale
            e, gamma = self.w[k, "e"] * self.keep[k], self.config.orth_weight
            identity = np.eye(len(e))
            skew_a, skew_b = a @ a.T - identity, b.T @ b - identity
            loss += gamma * ((skew_a**2).sum() + (skew_b**2).sum())
            grads[k, "A"] = s * e[:, None] * (b.T @ full[k]) + 4 * gamma * skew_a @ a
            grads[k, "B"] = s * (full[k] @ a.T) * e + 4 * gamma * b @ skew_b
            grads[k, "e"] = s * np.einsum("or,oi,ri->r", b, full[k], a) * self.keep[k]
        return loss, grads

    def budget(self):
        """b(t) of equation 12 and whether ranks are given up after this update."""
        first, last = 2 * self.config.width, 2 * self.config.rank
        if self.t <= self.begin:
            return first, False
        if self.t >= self.total - self.end:
            return last, self.t == self.total - self.end
        left = 1 - (self.t - self.begin) / (self.total - self.end - self.begin)
        return int(last + (first - last) * left**3 + 1e-9), self.t % self.config.delta_t == 0

    def step(self):
        self.t += 1
        loss, grads = self.gradients()
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        grads = {key: g * min(1.0, CLIP / (norm + 1e-6)) for key, g in grads.items()}
        if self.t <= self.total - self.end:
            for key, g in grads.items():
                now = np.abs(self.w[key] * g)
                self.ipt[key] = self.config.beta1 * self.ipt[key] + (1 - self.config.beta1) * now
                self.unc[key] = self.config.beta2 * self.unc[key] + (1 - self.config.beta2) * np.abs(
                    now - self.ipt[key]
                )
        scores = {
            k: self.ipt[k, "e"] * self.unc[k, "e"]
            + (self.ipt[k, "A"] * self.unc[k, "A"]).mean(1)
            + (self.ipt[k, "B"] * self.unc[k, "B"]).mean(0)
            for k in self.layers
        }
        for key, g in grads.items():
            self.m[key] = 0.9 * self.m[key] + 0.1 * g
            self.v[key] = 0.999 * self.v[key] + 0.001 * g * g
            decay = 0.0 if key[1] == "e" else DECAY
            change = (self.m[key] / (1 - 0.9**self.t)) / (np.sqrt(self.v[key] / (1 - 0.999**self.t)) + 1e-8)
            self.w[key] = self.w[key] * (1 - LR * decay) - LR * change
        budget, giving_up = self.budget()
        self.masked = None
        if giving_up:
            everything = np.concatenate([scores[k] for k in self.layers])
            least = np.sort(everything)[::-1][budget - 1]
            self.masked = {k: (scores[k] >= least).astype(float) for k in self.layers}
            assert sum(m.sum() for m in self.masked.values()) == budget, "no two scores are alike in this test"
            for k in self.layers:
                self.w[k, "e"] *= self.masked[k]
                if self.t == self.total - self.end:
                    self.keep[k] = self.masked[k]
        for k in self.layers:
            self.w[k, "e"] *= self.keep[k]
        return loss


@pytest.mark.parametrize(
    ("mode", "begin", "end", "every"),
    [
        pytest.param(ms.GRAPH_MODE, 3, 4, 3, id="graph-every-3"),
        pytest.param(ms.GRAPH_MODE, 0, 0, 5, id="graph-to-the-end"),
        pytest.param(ms.GRAPH_MODE, 2, 3, 1, id="graph-every-1", marks=pytest.mark.all_only),
        pytest.param(ms.PYNATIVE_MODE, 3, 4, 3, id="pynative-every-3"),
        pytest.param(ms.PYNATIVE_MODE, 0, 0, 5, id="pynative-to-the-end", marks=pytest.mark.all_only),
        pytest.param(ms.PYNATIVE_MODE, 2, 3, 1, id="pynative-every-1", marks=pytest.mark.all_only),
    ],
    indirect=["mode"],
)
def test_every_step_is_the_algorithm(mode, begin, end, every):
    total = 14
    config = AdaLoraConfig(
        rank=2, init_rank=4, alpha=6, orth_weight=0.05, tinit=begin, tfinal=end, delta_t=every, target=("all-linear",)
    )
    run = Run(config, total)
    reference = Reference(run, config, total)
    revived = False
    given_up = {}
    for step in range(total):
        run.update_with_nan()
        np.testing.assert_allclose(run.update(), reference.step(), rtol=1e-4, err_msg=f"loss of step {step}")
        for k in Reference.layers:
            for part, leaf in (("A", ADALORA_A), ("B", ADALORA_B), ("e", ADALORA_E)):
                name = f"{k}.{leaf}"
                expected = reference.w[k, part]
                np.testing.assert_allclose(run.value(name), expected, rtol=2e-3, atol=2e-5, err_msg=f"{name}, {step}")
            np.testing.assert_array_equal(run.value(f"{k}.{ADALORA_KEEP}"), reference.keep[k])
            e = run.value(f"{k}.{ADALORA_E}")
            if reference.masked is not None:
                np.testing.assert_array_equal(e != 0, reference.masked[k] == 1, err_msg=f"mask of step {step}")
                given_up[k] = e == 0
            elif k in given_up:
                revived = revived or bool((e[given_up[k]] != 0).any())
    assert revived == (every > 1), "between two allocations what was given up may grow again"
    kept = [run.value(f"{k}.{ADALORA_KEEP}") for k in Reference.layers]
    assert sum(m.sum() for m in kept) == 2 * config.rank
    names = {p.name: p for p in run.hook.get_parameters()}
    for k in Reference.layers:
        for part, leaf in (("A", ADALORA_A), ("B", ADALORA_B), ("e", ADALORA_E)):
            for what, state in (("sensitivity", reference.ipt), ("uncertainty", reference.unc)):
                found = names[f"adalora_{what}.{k}.{leaf}"].asnumpy()
                np.testing.assert_allclose(found, state[k, part], rtol=5e-3, atol=1e-7, err_msg=f"{what} of {k}.{leaf}")


@pytest.mark.parametrize("shape", [(4, WIDE), (2, 3, WIDE)])
def test_forward_is_the_formula(mode, shape):
    net = Net()
    config = AdaLoraConfig(rank=2, alpha=6, target=("all-linear",))
    x = numbers(shape, 5)
    before = net(Tensor(x)).asnumpy()
    base = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    owned = METHOD.attach(net, config, Sites(), 0)
    leaves = (ADALORA_A, ADALORA_E, ADALORA_B, ADALORA_KEEP)
    assert set(owned) == {f"{k}.{leaf}" for k in ("first", "last") for leaf in leaves}
    np.testing.assert_array_equal(net(Tensor(x)).asnumpy(), before)
    delta = {}
    for p in net.get_parameters():
        if p.name in owned:
            fixed = p.name.endswith(ADALORA_KEEP)
            p.set_data(Tensor(np.array([1, 0, 1], np.float32)) if fixed else Tensor(numbers(p.shape, len(p.name))))
            delta[p.name] = p.asnumpy()
    scale = 6 / (3 + 1e-5)

    def low_rank(k):
        a, e, b, keep = (delta[f"{k}.{leaf}"] for leaf in leaves)
        return scale * b @ np.diag(e * keep) @ a

    first = base["first.weight"] + low_rank("first")
    last = base["last.weight"] + low_rank("last")
    found = net(Tensor(x)).asnumpy()
    np.testing.assert_allclose(found, np.maximum(x @ first.T, 0) @ last.T, rtol=1e-4, atol=1e-4)
    update = METHOD.merge(config, delta)
    np.testing.assert_allclose(update("first.weight", base["first.weight"]), first, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(update("last.weight", base["last.weight"]), last, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(update("first.bias", base["first.bias"]), base["first.bias"])


@pytest.mark.parametrize(
    ("algo", "mode"),
    [("adalora", ms.GRAPH_MODE), ("adalora", ms.PYNATIVE_MODE), ("adalora+r_drop", ms.PYNATIVE_MODE)],
    ids=["graph", "pynative", "r-drop"],
    indirect=["mode"],
)
def test_the_regulariser_counts_once_a_step_however_it_is_split(mode, algo):
    """Micro-batches with unequal numbers of supervised items, one of which has none, give the step of the whole batch."""
    found = []
    for groups in ([slice(0, 6)], [slice(0, 4), None, slice(4, 6)]):
        settings = {"dropout": 1e-9} if algo != "adalora" else {}
        config = find_method(algo).config(rank=1, init_rank=2, orth_weight=0.3, target=("all-linear",), **settings)
        run = Run(config, 9, accumulate=len(groups), algo=algo)
        losses = []
        for i, rows in enumerate(groups):
            x, y = (X[rows], Y[rows]) if rows is not None else (X[:2], np.full_like(Y[:2], -100))
            denominator = Tensor(float(COUNT), ms.float32)
            losses.append(float(run.step(i == len(groups) - 1, denominator, Tensor(y), Tensor(x))[0].asnumpy()))
        found.append((sum(losses), {n: run.value(n) for n in run.parameters}))
    skewness = 0.0
    fresh = Run(config, 9, algo=algo)
    for k in ("first", "last"):
        a, b = fresh.value(f"{k}.{ADALORA_A}"), fresh.value(f"{k}.{ADALORA_B}")
        skewness += ((a @ a.T - np.eye(2)) ** 2).sum() + ((b.T @ b - np.eye(2)) ** 2).sum()
    plain = SupervisedLoss(fresh.net)(Tensor(float(COUNT), ms.float32), Tensor(Y), Tensor(X))[0].asnumpy()
    assert found[0][0] == pytest.approx(float(plain) + 0.3 * skewness, rel=1e-5)
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for name, value in found[1][1].items():
        np.testing.assert_allclose(value, found[0][1][name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_of_equal_scores_the_first_are_kept(mode):
    config = AdaLoraConfig(rank=1, init_rank=3, tinit=0, tfinal=0, target=("all-linear",))
    hook = Run(config, 4).hook
    for scores, budget, expected in [
        ([2, 1, 1, 1, 3, 1], 4, [1, 1, 1, 0, 1, 0]),
        ([0, 0, 0, 0, 0, 0], 2, [1, 1, 0, 0, 0, 0]),
        ([5, 4, 3, 2, 1, 0], 6, [1, 1, 1, 1, 1, 1]),
        ([5, 5, 5, 5, 5, 5], 6, [1, 1, 1, 1, 1, 1]),
        ([-1, 0, -1, 0, 0, 1e-20], 1, [0, 0, 0, 0, 0, 1]),
    ]:
        found = hook.chosen(Tensor(np.array(scores, np.float32)), Tensor(budget, ms.int32)).asnumpy()
        np.testing.assert_array_equal(found, np.array(expected, bool))


def test_what_was_given_up_for_good_is_never_chosen_again():
    """A run that goes on from a finished delta keeps within its ranks."""
    config = AdaLoraConfig(rank=1, init_rank=3, tinit=0, tfinal=1, delta_t=1, target=("all-linear",))
    run = Run(config, 6)
    keep = run.parameters[f"first.{ADALORA_KEEP}"]
    keep.set_data(Tensor(np.array([0, 1, 0], np.float32)))
    for _ in range(6):
        run.update()
        assert run.value(f"first.{ADALORA_KEEP}")[[0, 2]].sum() == 0
    assert (run.value(f"first.{ADALORA_E}")[[0, 2]] == 0).all()
    assert run.value(f"first.{ADALORA_KEEP}").sum() + run.value(f"last.{ADALORA_KEEP}").sum() == 2


@pytest.mark.parametrize(
    ("begin", "end", "every", "total"), [(10, 30, 10, 100), (0, 0, 1, 7), (3, 2, 4, 23), (0, 5, 1, 6)]
)
def test_budget_plan_is_equation_12(begin, end, every, total):
    first, last = 144, 96
    plan = budget_plan(first, last, begin, end, every, total)
    assert plan.shape == (total,) and plan.dtype == np.int32
    for t in range(1, total + 1):
        left = 1 - (t - begin) / (total - end - begin)
        cubic = int(last + (first - last) * left**3 + 1e-9)
        if t == total - end:
            assert plan[t - 1] == last
        elif begin < t < total - end and t % every == 0:
            assert plan[t - 1] == cubic
        else:
            assert plan[t - 1] == 0
    used = plan[plan > 0]
    assert (np.diff(used) <= 0).all() and used[-1] == last


def test_phases_are_shares_or_numbers_of_steps():
    config = AdaLoraConfig(tinit=0.1, tfinal=30)
    assert config.phases(200) == (20, 30)
    assert AdaLoraConfig().phases(1) == (0, 0)
    with pytest.raises(
        ConfigError, match=r"delta\.tinit 50 and delta\.tfinal 0\.5 are 50 and 50 of the run's 100 steps"
    ):
        AdaLoraConfig(tinit=50, tfinal=0.5).phases(100)


def test_ranks_of_the_settings():
    assert (
        AdaLoraConfig().width == 12
        and AdaLoraConfig(rank=5).width == 8
        and AdaLoraConfig(rank=4, init_rank=4).width == 4
    )
    with pytest.raises(ValueError, match="at least rank, which is 8"):
        AdaLoraConfig(init_rank=6)
