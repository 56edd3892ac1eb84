"""The learning receipt: its figures against numpy on the files, and the signs of a run whose delta learned nothing."""

import json
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import load_file

from petrun.checkpoint.delta import read_delta
from petrun.delta import find_method
from petrun.errors import TrainingError
from petrun.graph import packed_weight
from petrun.graph.freeze import freeze_all_but
from petrun.graph.sites import Sites
from petrun.inference.assembly import attach
from petrun.models.base import LoadedModel
from petrun.train.schedules import Schedule
from petrun.training.checkpointing.progress import Progress
from petrun.training.receipt import update_norms as update_norms_module
from petrun.training.receipt.receipt import ReceiptInputs, make_receipt, rows
from petrun.training.receipt.receipt_text import receipt_text
from petrun.training.receipt.samples import EvalSnapshot
from petrun.training.receipt.update_norms import first_values, unchanged, update_norms
from tests.data.loading import read_examples
from tests.tiny import ORDERS, write_base, write_rows

pytestmark = pytest.mark.usefixtures("pynative")


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = nn.Dense(6, 5)
        self.second = nn.Dense(5, 4)
        self.head = nn.Dense(4, 2)

    def construct(self, x):
        return self.head(self.second(self.first(x)))


def attached(algo, **settings):
    """A net of 6 x 5 and 5 x 4 layers and a head, with the method on the first two. Returns it, what trains, and its parameters."""
    method = find_method(algo)
    sites = Sites(linears={"in": "first", "out": "second"}, trained_heads=("head.*",), hidden=5)
    loaded = LoadedModel(
        net=Net(), sites=sites, family="net.py:build", model_type="net.py:build", inputs=("x",), tasks=("classify",)
    )
    heads = () if algo == "full" else ("head.weight", "head.bias")
    assembled = attach(loaded, method, method.config(**settings), 0, heads)
    return assembled, freeze_all_but(loaded.net, assembled.owned, method.fixed)


def parameters(assembled):
    return {p.name: p for p in assembled.loaded.net.get_parameters()}


def draw(assembled, *endings, seed=0):
    """Give the parameters of these names values of their own."""
    rng = np.random.default_rng(seed)
    for name, parameter in parameters(assembled).items():
        if name.endswith(endings):
            parameter.set_data(Tensor(rng.normal(size=parameter.shape).astype(np.float32)))


def change_of(algo, settings, before, after):
    """||dW|| of the first layer, by numpy from the definitions."""
    w = after["first.weight"].astype(np.float64)

    def part(values, leaf):
        return values[f"first.mindpet_delta_{leaf}"].astype(np.float64)

    scale = 16.0 / 2
    if algo == "adalora":
        scale = 16.0 / (3 + 1e-5)
        return scale * (part(after, "adalora_b") * part(after, "adalora_e")) @ part(after, "adalora_a")
    if algo == "ia3":
        return w * part(after, "ia3_l")[:, None] - w
    product = part(after, "lora_b") @ part(after, "lora_a")
    if settings.get("variant") == "pissa":
        return scale * (product - part(before, "lora_b") @ part(before, "lora_a"))
    if settings.get("variant") == "dora":
        whole = w + scale * product
        return part(after, "lora_m")[:, None] * whole / np.linalg.norm(whole, axis=1, keepdims=True) - w
    return scale * product


@pytest.mark.parametrize(
    ("algo", "settings"),
    [
        ("lora", {"rank": 2}),
        ("lora", {"rank": 2, "variant": "pissa"}),
        ("lora", {"rank": 2, "variant": "dora"}),
        ("adalora", {"rank": 2}),
        ("ia3", {"target": "in"}),
    ],
)
def test_what_is_added_to_a_layer_against_numpy(monkeypatch, algo, settings):
    monkeypatch.setattr(packed_weight, "_BLOCK", 12)
    assembled, trainable = attached(algo, **settings)
    start = first_values(trainable)
    before = {name: p.asnumpy().copy() for name, p in parameters(assembled).items()}
    assert len(unchanged(assembled, trainable, start)) == sum("mindpet" in p.name for p in trainable.parameters)
    draw(assembled, *(p.name for p in trainable.parameters if "mindpet" in p.name))
    after = {name: p.asnumpy() for name, p in parameters(assembled).items()}
    found = {each.name: each for each in update_norms(assembled, trainable, start)}
    assert [each.kind for each in found.values()] == ["update"] * (len(found) - 2) + ["head"] * 2
    want = np.linalg.norm(change_of(algo, settings, before, after))
    assert found["first"].norm == pytest.approx(want, rel=1e-5) and want > 1
    assert found["first"].base == pytest.approx(np.linalg.norm(after["first.weight"].astype(np.float64)), rel=1e-6)
    assert found["head.weight"].norm == 0 and not unchanged(assembled, trainable, start)


def test_a_large_parameter_is_sampled(monkeypatch):
    monkeypatch.setattr(update_norms_module, "_SAMPLE", 9)
    assembled, trainable = attached("full")
    start = first_values(trainable)
    assert all(len(values) <= 9 for values in start.values())
    weight = parameters(assembled)["first.weight"]
    # Neither every column nor every row alone is looked at.
    step = next(s for s in range(4, 9) if np.gcd(s, 6) == 1)
    np.testing.assert_array_equal(start["first.weight"], weight.asnumpy().reshape(-1)[::step])
    weight.set_data(weight * 1.5)
    found = {each.name: each for each in update_norms(assembled, trainable, start)}
    assert found["first.weight"].sampled and found["first.weight"].ratio == pytest.approx(0.5, abs=1e-6)
    assert not found["second.bias"].sampled and found["second.bias"].norm == 0


def inputs_of(algo="lora", dtype="float32", warmup=0, change=("lora_b", "head.weight"), **progress):
    assembled, trainable = attached(algo, target="in")
    start = first_values(trainable)
    draw(assembled, *change)
    data = SimpleNamespace(
        task="classify", stats=SimpleNamespace(read=4, used=4, cut=0, completion_gone=0, empty=0, bad=0, tokens=8),
        per_row={"row": np.arange(4)}, __len__=lambda self: 4,
    )  # fmt: skip
    data = type("Rows", (), vars(data))()
    sources = SimpleNamespace(train=data, evaluation=None)
    healthy = {"step": 3, "learned": True, "updates": 3, "largest_gradient": 0.5, "first_losses": [0.7, 0.6]}
    schedule = Schedule(kind="cosine", peak=1e-3, warmup_steps=warmup, total_steps=10)
    return ReceiptInputs(
        assembled=assembled,
        trainable=trainable,
        sources=sources,
        schedule=schedule,
        compute_dtype=dtype,
        seq_len=96,
        first_values=start,
        progress=Progress(**{**healthy, **progress}),
    )


FAILURES = {
    "loss 0": ({"learned": False}, "the loss was 0 at every step", "look at the labels"),
    "overflow": ({"updates": 0}, "none of the 3 steps changed a weight", "loss scale"),
    "no gradient": ({"largest_gradient": 0.0}, "the gradients were all zero", "No trained parameter reaches the loss"),
    "underflow": ({"largest_gradient": 0.0, "dtype": "float16"}, "the gradients were all zero", "model.dtype=float32"),
    "B is zero": ({"change": ("lora_a", "head.bias")}, "what lora adds to its 1 layers is still zero", "(head.bias)"),
    "nothing changed": ({"change": ()}, "is still zero", "learning rate of 0.001 is likely too small"),
    "same output": ({"after": [0.7, 0.6]}, "computes what it computed before", "in float32: raise --lr"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_teaches_nothing_fails_with_its_cause(case):
    settings, message, cause = FAILURES[case]
    settings = dict(settings)
    after = EvalSnapshot(losses=settings.pop("after", [0.5, 0.6]))
    evaluator = SimpleNamespace(rows=SimpleNamespace(per_row={"row": np.array([0, 3])}), prompts=())
    receipt = make_receipt(inputs_of(**settings), evaluator, after)
    with pytest.raises(TrainingError) as error:
        receipt.require_learned()
    assert message in error.value.message and cause in error.value.hint
    assert receipt.content["failures"][0].startswith(receipt.failures[0][0])
    json.dumps(receipt.content)


def test_what_is_young_is_no_failure():
    """A first update under warm-up may be too small to show; B that changed while A has not is how LoRA begins."""
    evaluator = SimpleNamespace(rows=SimpleNamespace(per_row={"row": np.array([0, 3])}), prompts=())
    young = inputs_of(change=("lora_b",), warmup=5, step=1, updates=1)
    receipt = make_receipt(young, evaluator, EvalSnapshot(losses=[0.7, 0.6]))
    receipt.require_learned()
    assert receipt.content["delta"]["unmoved"] == ["first.mindpet_delta_lora_a"]
    assert "have not changed" not in receipt_text(receipt, "lora")
    old = make_receipt(inputs_of(change=("lora_b",)), evaluator, EvalSnapshot(losses=[0.5, 0.6]))
    assert "1 parameters have not changed, such as first.mindpet_delta_lora_a" in receipt_text(old, "lora")
    assert old.content["held_in"]["largest_change"] == pytest.approx(0.2)
    assert old.content["targets"] == {"asked": {"in": 1}, "excluded": [], "layers": 1, "matched": {"in": 1}}


def test_rows_are_accounted_for(tmp_path):
    tokenizer_folder = write_base(tmp_path / "base", "gpt2")
    from petrun.data.tokenizers.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_folder)
    path = write_rows(tmp_path / "lm.jsonl", [{"text": "a" * n} for n in (3, 0, 9, 4)])
    examples = read_examples(path, task="lm", tokenizer=tokenizer, seq_len=6, weights=(2,))
    found = rows(examples, 6)
    assert (found["read"], found["used"], found["repeated"]) == (4, 3, 3)
    assert found["cut"] == {"longer than 6 tokens": 1} and found["dropped"] == {"without text": 1}
    # 3 + end, 6 of 9, 4 + end; of each row the first token is predicted from nothing, and the cut one lost its end.
    assert (found["tokens"], found["supervised_tokens"], found["eos_rows"]) == (15, 12, 2)
    path = write_rows(tmp_path / "orders.jsonl", [*ORDERS, {"prompt": "a" * 20, "completion": "b"}])
    examples = read_examples(path, task="instruct", tokenizer=tokenizer, seq_len=12)
    found = rows(examples, 12)
    assert (found["nothing_left_to_learn"], found["cut"], found["dropped"]) == (1, {"longer than 12 tokens": 1}, {})


def test_a_run_prints_and_keeps_its_receipt(place):
    """bert-lora and gpt2-lora of the workplace: LoRA on q and v, one step."""
    results = json.loads((place / "bert-lora" / "results.json").read_text())
    receipt, delta = results["receipt"], read_delta(place / "bert-lora").tensors
    base = load_file(place / "bert" / "model.safetensors")
    layers = {each["name"]: each for each in receipt["delta"]["layers"]}
    updates = [name for name, each in layers.items() if each["kind"] == "update"]
    assert len(updates) == receipt["targets"]["layers"] == 4 and receipt["targets"]["asked"] == {}
    for name in updates:
        b, a = (delta[f"{name}.mindpet_delta_lora_{leaf}"].astype(np.float64) for leaf in "ba")
        assert layers[name]["norm"] == pytest.approx(8.0 * np.linalg.norm(b @ a), rel=1e-6) and layers[name]["norm"] > 0
        number, role = name.split(".")[1], {"q": "query", "v": "value"}[name[-1]]
        stored = next(w for k, w in base.items() if k.endswith(f"layer.{number}.attention.self.{role}.weight"))
        assert layers[name]["ratio"] == pytest.approx(layers[name]["norm"] / np.linalg.norm(stored), rel=1e-5)
    assert layers["classifier.weight"]["kind"] == "head" and layers["classifier.weight"]["norm"] > 0
    held = receipt["held_in"]
    assert held["rows"] == list(range(6)) and held["loss"]["after"] < held["loss"]["before"]
    assert receipt["steps"] == {"done": 1, "updates": 1, "largest_gradient_norm": pytest.approx(
        json.loads((place / "bert-lora" / "log.jsonl").read_text().splitlines()[0])["grad_norm"]), "passes": 1.0}  # fmt: skip
    assert receipt["rows"]["train"]["used"] == 6 and receipt["failures"] == [] and receipt["texts"] == []
    results = json.loads((place / "gpt2-lora" / "results.json").read_text())
    receipt = results["receipt"]
    assert [each["prompt"] for each in receipt["texts"]] == [row["prompt"] for row in ORDERS[:3]]
    assert [each["reference"] for each in receipt["texts"]] == [row["completion"] for row in ORDERS[:3]]
    assert all(each["before"] or each["after"] for each in receipt["texts"])
    assert receipt["rows"]["train"]["eos_rows"] == 4 and 0 < receipt["rows"]["train"]["supervised_share"] < 1
    log = [json.loads(line) for line in (place / "gpt2-lora" / "log.jsonl").read_text().splitlines()]
    # All four rows were in the step, whose loss was taken before its update: the mean over tokens, here over rows.
    assert receipt["held_in"]["loss"]["before"] == pytest.approx(log[0]["loss"], rel=0.05)


NET = """
from mindspore import nn


class Net(nn.Cell):
    inputs = ("x",)

    def __init__(self):
        super().__init__()
        self.used = nn.Dense(3, 2)
        self.unused = nn.Dense(3, 2)

    def construct(self, x):
        return self.used(x)


def build():
    return Net()
"""


@pytest.mark.usefixtures("graph_mode")
def test_a_run_that_teaches_nothing_ends_with_an_error(place, petrun):
    """A target that the net does not use, and a rate that no float32 shows: saved, reported, and exit code 1."""
    (place / "net.py").write_text(NET)
    np.savez(place / "rows.npz", x=np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), label=[0, 1] * 3)
    line = "train --model net.py:build --data rows.npz --rank 1 --steps 2 --batch-size 6 "
    done = petrun(line + "--target unused --train-also used.bias --out wrong")
    assert done.code == 1 and "receipt" in done.out and "saved wrong/lora.ckpt" in done.out
    assert "error: nothing was learned: what lora adds to its 1 layers is still zero" in done.err
    assert "Only what trains beside it changed (used.bias)" in done.err
    results = json.loads((place / "wrong" / "results.json").read_text())
    assert len(results["receipt"]["failures"]) == 1 and read_delta(place / "wrong").manifest.step == 2
    done = petrun("resume wrong")
    assert (
        done.code == 1 and "wrong is finished" in done.out and "wrong: nothing was learned: what lora adds" in done.err
    )
    done = petrun(line + "--target used --lr 1e-30 --out slow")
    assert done.code == 1 and "the model computes what it computed before" in done.err and "raise --lr" in done.err
    # One step, all of it warm-up, is a healthy run.
    done = petrun(line.replace("--steps 2", "--steps 1 --set optim.warmup=1") + "--target used --out young")
    assert done.code == 0, done.err
    assert ms.get_context("mode") == ms.GRAPH_MODE
