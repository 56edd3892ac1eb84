"""COMET in a process of its own: what it is given, what is missing. A small package stands in for unbabel-comet, whose numbers a comparison
by hand held to the last digit.
"""

import pytest

from petrun.curation.comet_model import find_comet_model
from petrun.errors import SetupError
from tests.curation.rows import read_jsonl, write_jsonl
from tests.program import call

PACKAGE = """
class Model:
    def __init__(self, encoder, references):
        self.encoder, self.references = encoder, references

    def requires_references(self):
        return self.references

    def predict(self, samples, batch_size, gpus, num_workers, progress_bar):
        class Found:
            # By hand: a word that source and translation share counts 1, one that translation and reference share counts 10.
            scores = [
                len(set(s["src"].split()) & set(s["mt"].split())) + 10 * len(set(s["mt"].split()) & set(s.get("ref", "").split()))
                for s in samples
            ]
        assert gpus == 0 and batch_size == 4
        return Found

def loader(references):
    class Kind:
        @staticmethod
        def load_from_checkpoint(path, *, pretrained_model, load_pretrained_weights, local_files_only, map_location, strict, **more):
            assert open(path).read() == "weights" and local_files_only and not load_pretrained_weights
            assert more == {"layer_transformation": "softmax"}
            if open(pretrained_model + "/config.json").read() != "{}":
                raise ValueError("a broken encoder")
            return Model(pretrained_model, references)
    return Kind

str2model = {"regression_metric": loader(True), "referenceless_regression_metric": loader(False)}
"""
ROWS = [{"en": "a b", "de": "a c"}, {"en": "x", "de": " "}, {"en": "d e", "de": "d f"}]
LINE = ["data", "score", "rows.jsonl", "--source", "en", "--target", "de", "--batch-size", "4", "--out", "scores.jsonl"]


def write_model(folder, kind, encoder="xlm-roberta-large"):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "model.ckpt").write_text("weights")
    lines = [
        f"class_identifier: {kind}",
        f"pretrained_model: '{encoder}'",
        "layer_transformation: sparsemax_patch",
        "hidden_sizes:",
        "- 8",
    ]
    (folder / "hparams.yaml").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packages = tmp_path / "packages"
    (packages / "comet" / "models").mkdir(parents=True)
    (packages / "comet" / "__init__.py").write_text("")
    (packages / "comet" / "models" / "__init__.py").write_text(PACKAGE)
    (packages / "unbabel_comet-2.2.dist-info").mkdir()
    (packages / "unbabel_comet-2.2.dist-info" / "METADATA").write_text("Name: unbabel-comet\nVersion: 2.2\n")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    (tmp_path / "encoder").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "encoder" / name).write_text("{}")
    write_model(tmp_path / "ref", "regression_metric")
    write_model(tmp_path / "qe", "referenceless_regression_metric", tmp_path / "encoder")
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def test_sides_of_a_row_are_scored_without_references(folder, capfd):
    assert call([*LINE, "--by", "comet:qe"]) == 0
    header, *found = read_jsonl(folder / "scores.jsonl")
    assert [entry["score"] for entry in found] == [1, None, 1] and found[1]["reason"] == "no question or no answer"
    assert header["formula"] == "referenceless_regression_metric of qe, unbabel-comet 2.2, without references"
    assert header["mean"] == 1 and "mean over 2 rows: 1.0000" in capfd.readouterr().out


def test_predictions_are_the_translations_and_answers_the_references(folder):
    # A text may hold a separator of lines.
    texts = ((1, "y"), (0, "a\u2028c"), (2, ""))
    write_jsonl(folder / "predictions.jsonl", [{"row": i, "prediction": text} for i, text in texts])
    assert call([*LINE, "--by", "comet:ref", "--encoder", "encoder", "--predictions", "predictions.jsonl"]) == 0
    header, *found = read_jsonl(folder / "scores.jsonl")
    # A row without a reference has no score; an empty prediction has one.
    assert [entry["score"] for entry in found] == [21, None, 0] and header["mean"] == 10.5


def test_all_that_is_missing_is_named_at_once(folder):
    (folder / "qe" / "checkpoints" / "model.ckpt").unlink()
    (folder / "encoder" / "tokenizer.json").unlink()
    with pytest.raises(SetupError) as error:
        find_comet_model("qe", None, "/no/python")
    for said in (
        "model.ckpt: no such file",
        "holds no tokenizer.json and no sentencepiece",
        "/no/python: cannot be run",
    ):
        assert said in error.value.message
    with pytest.raises(SetupError, match="xlm-roberta-large: the encoder is no folder here"):
        find_comet_model("ref", None, None)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--by", "comet:"], "--by comet: the model is missing"),
        (["--by", "comet:ref", "--encoder", "encoder"], "a regression_metric compares translations with references"),
        (
            ["--by", "comet:qe", "--predictions", "half.jsonl"],
            "half.jsonl: holds no prediction of row 1, rows.jsonl, line 2",
        ),
        (["--by", "comet:qe", "--predictions", "rows.jsonl"], "rows.jsonl, line 1: holds no row with a prediction"),
        (["--by", "comet:qe", "--margin"], "--margin has no effect on --by comet"),
        (["--by", "comet:qe", "--set", "model.dtype=float16"], "--set model.dtype=float16 has no effect on --by comet"),
        (["--by", "reward:qe", "--comet-python", "p"], "--comet-python has no effect on --by reward"),
        (["--by", "comet:broken"], "the process of COMET ended with code 1"),
    ],
)
def test_wrong_calls_write_nothing(folder, capfd, more, said):
    write_jsonl(folder / "half.jsonl", [{"row": 0, "prediction": "a"}])
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text("[]")
    (folder / "other" / "tokenizer.json").write_text("{}")
    write_model(folder / "broken", "regression_metric", folder / "other")
    assert call([*LINE, *more]) in (1, 2)
    shown = capfd.readouterr().err
    assert said in shown and not (folder / "scores.jsonl").exists()
    assert "broken" not in more[1] or "a broken encoder" in shown
