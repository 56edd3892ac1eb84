"""Numbers to predict, from the command line to a folder that transformers loads, and back."""

import json

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.evaluate.row_formulas import pearson, spearman
from tests.tiny import REVIEWS, write_rows

NUMBERS = {"good": 0.75, "bad": -1.25, "very good": 1.5}
ROWS = [{"text": f"this film is {word}", "label": value} for word, value in NUMBERS.items()] * 2


def predictions(path):
    return np.array([json.loads(line)["prediction"] for line in path.read_text().splitlines()])


@pytest.mark.all_only
def test_from_train_to_a_merged_base_that_is_trained_again(place, petrun):
    write_rows(place / "rows.jsonl", ROWS)
    line = "train --base bert --data rows.jsonl --eval-data rows.jsonl --rank 2 --epochs 25 --batch-size 4 --lr 0.02 --out run"
    done = petrun(line)
    assert done.code == 0, done.err
    assert "regression, targets from -1.25 to 1.5" in done.out + done.err
    task = read_delta(place / "run").manifest.task
    assert (task.name, task.num_labels, task.labels) == ("classify", 1, ())
    done = petrun("predict --base bert --delta run --data rows.jsonl --out predictions.jsonl")
    assert done.code == 0, done.err
    found = predictions(place / "predictions.jsonl")
    targets = np.array([row["label"] for row in ROWS])
    want = {
        "loss": np.mean((found - targets) ** 2),
        "mse": np.mean((found - targets) ** 2),
        "pearson": pearson(targets, found),
        "spearman": spearman(targets, found),
    }
    assert want["loss"] < 0.5 and want["pearson"] > 0.8, "it has learned"
    done = petrun("eval --base bert --delta run --data rows.jsonl --out scores.json")
    assert done.code == 0, done.err
    scores = json.loads((place / "scores.json").read_text())
    figures = scores.get("delta", scores.get("metrics", scores))
    for name, value in want.items():
        assert figures[name] == pytest.approx(value, abs=1e-5)
    done = petrun("merge --base bert --delta run --out merged --prove")
    assert done.code == 0, done.err
    config = json.loads((place / "merged/config.json").read_text())
    assert config["problem_type"] == "regression"
    assert len(config["id2label"]) == 1
    # The merged folder is a base with a head for numbers: it predicts, is trained further, and takes integers for numbers.
    assert petrun("predict --base merged --data rows.jsonl --out again.jsonl").code == 0
    np.testing.assert_allclose(predictions(place / "again.jsonl"), found, atol=1e-5)
    write_rows(place / "whole.jsonl", [{"text": r["text"], "label": i} for i, r in enumerate(REVIEWS)])
    done = petrun("train --base merged --data whole.jsonl --rank 2 --steps 1 --out on")
    assert done.code == 0 and "targets from 0 to 5" in done.out + done.err, done.err
    held_against_transformers(place, found)


def held_against_transformers(place, found):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place / "merged").eval()
    assert model.config.num_labels == 1
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(place / "merged/tokenizer.json"))
    with torch.no_grad():
        for row, value in zip(ROWS, found, strict=True):
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits
            assert logits.item() == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    ("line", "words", "code"),
    [
        ("train --base bert --data rows.jsonl --algo lora+r_drop --dropout 0.1", ["r_drop compares distributions"], 2),
        ("train --base bert --data rows.jsonl --init-delta bert-lora", ["line 1: the label 0.75 is not an integer"], 1),
        ("eval --base bert --delta bert-lora --data rows.jsonl", ["line 1: the label 0.75 is not an integer"], 1),
        ("train --base bert --data rows.jsonl --set data.regression=false", ["the label 0.75 is not an integer"], 1),
        (
            "train --base bert --data rows.jsonl --eval-data reviews.jsonl --set data.regression=true --set eval.metrics=accuracy",
            ["metric accuracy is for classify, not for regression", "pearson"],
            2,
        ),
        (
            "eval --base bert --delta bert-lora --data rows.jsonl --set data.regression=true",
            ["data.regression = true, but the model predicts 2 classes"],
            1,
        ),
    ],
)
def test_refused(place, refused, line, words, code):
    write_rows(place / "rows.jsonl", ROWS)
    refused(line, words, code)


NET = """
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn


class Net(nn.Cell):
    inputs = ("x",)

    def __init__(self, outputs):
        super().__init__()
        self.first = nn.Dense(3, 4, weight_init=Tensor(np.arange(12).reshape(4, 3) / 24, ms.float32))
        self.last = nn.Dense(4, outputs, weight_init=Tensor(np.arange(4 * outputs).reshape(outputs, 4) / 8, ms.float32))

    def construct(self, x):
        return self.last(self.first(x))


def make(outputs=1):
    return Net(outputs)
"""


def test_a_net_of_the_users_own(place, petrun, refused):
    (place / "own.py").write_text(NET)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3)).astype(np.float32)
    np.savez(place / "rows.npz", x=x, label=x @ np.array([0.5, -1.0, 0.25]))
    done = petrun(
        "train --model own.py:make --data rows.npz --target first --rank 2 --train-also last.* --epochs 2 --out own"
    )
    assert done.code == 0, done.err
    done = petrun("predict --model own.py:make --delta own --data rows.npz --out own.jsonl")
    assert done.code == 0, done.err
    assert predictions(place / "own.jsonl").shape == (8,)
    # What the delta predicts is known from its manifest: integers are numbers for it too.
    np.savez(place / "whole.npz", x=x, label=np.arange(8))
    done = petrun("eval --model own.py:make --delta own --data whole.npz")
    assert done.code == 0 and "spearman" in done.out + done.err, done.err
    refused(
        "train --model own.py:make --data rows.npz --target first --set model.kwargs.outputs=3",
        ["its net has 3 outputs, the labels are numbers to predict"],
    )


def test_one_class_alone_is_no_number(place, petrun):
    """Training rows of class 0 alone, for a net of three classes: rows of other classes can be evaluated."""
    (place / "own.py").write_text(NET)
    x = np.ones((4, 3), np.float32)
    np.savez(place / "zeros.npz", x=x, label=np.zeros(4, np.int64))
    np.savez(place / "other.npz", x=x, label=np.array([0, 1, 2, 1]))
    model = "--model own.py:make --set model.kwargs.outputs=3"
    done = petrun(f"train {model} --data zeros.npz --eval-data other.npz --target first --rank 2 --steps 1 --out own")
    assert done.code == 0 and "accuracy" in done.out + done.err, done.err
    assert petrun(f"eval {model} --delta own --data other.npz").code == 0
