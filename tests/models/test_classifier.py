"""Decoders that classify rows, against transformers' ForSequenceClassification classes (transformers_cases.py)."""

import json

import pytest

from petrun.errors import ModelError
from petrun.models.factory import load_model, read_family
from petrun.models.families import FAMILIES
from tests.models.agreement import CONFIGS, check_classes, check_sites, load, tensors
from tests.models.reference import write
from tests.models.transformers_cases import CLASSES, SCORED

COMPILED = ("gpt2-classes", "qwen2-classes")


@pytest.mark.parametrize("name", SCORED)
def test_equals_transformers(tmp_path, pynative, name):
    model = load(tmp_path, name)
    check_classes(model, name)
    assert (model.tasks, model.num_labels, model.labels, model.fresh) == (("classify",), 3, ("bad", "fair", "good"), ())


@pytest.mark.parametrize(
    "name", [name if name in COMPILED else pytest.param(name, marks=pytest.mark.all_only) for name in SCORED]
)
def test_equals_transformers_compiled(tmp_path, name):
    check_classes(load(tmp_path, name), name)


@pytest.mark.parametrize("name", SCORED)
def test_sites(name):
    sites = check_sites(name)
    assert (sites.head, sites.trained_heads, sites.hf_paths["score"]) == ("score", ("score.*",), "score")


@pytest.mark.parametrize("name", ["llama-classes", "qwen2-classes"])
def test_a_base_that_continues_texts_gets_a_new_head(tmp_path, pynative, name):
    """Whether its head has a matrix of its own or the embedding's: it is not read, and is no part of the base's digest."""
    config = {key: value for key, value in CONFIGS[name].items() if key not in ("architectures", "id2label")}
    whole = tensors(config)
    base = write(tmp_path / "base", config, whole)
    model = load_model(base, task="classify", num_labels=3)
    assert model.fresh == ("score.weight",) and model.net.score.weight.shape == (3, 16)
    bare = {key.removeprefix("model."): value for key, value in whole.items() if key != "lm_head.weight"}
    alone = load_model(write(tmp_path / "bare", config, bare), task="classify", num_labels=3)
    assert model.base_digest == alone.base_digest
    with pytest.raises(ModelError, match="no classification head"):
        load_model(base, task="classify")


def test_the_head_of_a_base_is_that_of_its_config(tmp_path):
    config = CONFIGS["gpt2-classes"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_family(tmp_path, None)[1].tasks == ("classify",)
    assert read_family(tmp_path, None, task="lm")[1] is FAMILIES["gpt2"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    assert read_family(tmp_path, None)[1] is FAMILIES["gpt2"]


@pytest.mark.parametrize(
    ("model_type", "stated", "wanted"),
    [
        ("opt-classes", {"pad_token_id": 7}, 7),
        ("opt-classes", {}, 1),
        # transformers' default is no token of this vocabulary, and there is no tokenizer that says another.
        ("glm-classes", {}, None),
        ("llama-classes", {"pad_token_id": -1}, None),
    ],
)
def test_the_pad_token_that_marks_the_end_of_rows(tmp_path, model_type, stated, wanted):
    config = {key: value for key, value in CONFIGS[model_type].items() if key != "pad_token_id"}
    (tmp_path / "config.json").write_text(json.dumps({**config, **stated}))
    raw, _, parsed = read_family(tmp_path, None)
    assert raw["pad_token_id"] == wanted and parsed.pad_token == (-1 if wanted is None else wanted)


def test_every_family_says_its_classes():
    others = {
        kind: name for family in FAMILIES.values() for other in family.others for kind, name in other.hf_classes.items()
    }
    assert CLASSES.items() <= others.items()
    assert "classify" not in FAMILIES["chatglm"].every_task
