"""The schema takes what petrun takes: every shipped recipe, every run.yaml; and it refuses what petrun refuses."""

import pytest
import yaml

from petrun.config.json_schema import recipe_schema
from petrun.config.load import find_recipe, known_keys, recipe_names
from petrun.config.schema import RunConfig
from petrun.delta import METHODS

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def checker():
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_taken(checker, name):
    assert not list(checker.iter_errors(yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))))


def test_every_key_of_every_algorithm_is_there(checker):
    schema = checker.schema
    for name, method in METHODS.items():
        for key in known_keys(method.config):
            section, _, leaf = key.partition(".")
            assert section in schema["properties"]
            if section == "delta":
                assert leaf in schema["$defs"][f"delta_{name}"]["properties"], key
            elif leaf:
                kind = type(getattr(RunConfig.model_construct(), section)).__name__
                assert leaf in schema["$defs"][kind]["properties"], key


@pytest.mark.parametrize(
    "recipe",
    [
        {"algo": "lora", "delta": {"rnak": 8}},
        {"delta": {"tokens": 8}},
        {"optim": {"lr": -1}},
        {"optim": {"schedule": "cosin"}},
        {"trian": {"steps": 3}},
        {"train": {"steps": 1.5}},
    ],
)
def test_what_petrun_refuses_is_marked(checker, recipe):
    assert list(checker.iter_errors(recipe))


@pytest.mark.parametrize(
    "recipe",
    [
        {"data": {"path": "a.jsonl", "labels": ["x", "y"]}, "train": {"max_seconds": "1h30m"}},
        {"algo": "prefix", "delta": {"tokens": 8}, "optim.lr": 0.1, "description": "mine"},
        {"algo": "lora+bitfit", "delta": {"rank": 8}},
    ],
)
def test_what_petrun_takes_is_not_marked(checker, recipe):
    assert not list(checker.iter_errors(recipe))
