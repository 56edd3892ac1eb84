"""Precedence, origins, and every way a recipe, flag or key can be wrong."""

from dataclasses import FrozenInstanceError

import pytest
import yaml
from pydantic import ValidationError

from petrun.config.load import dump_run, find_recipe, load_run_config, parse_assignment, read_recipe
from petrun.errors import ConfigError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_precedence_and_origins(tmp_path):
    recipe = write(tmp_path / "r.yaml", "delta: {rank: 2, alpha: 3}\noptim: {lr: 0.5, beta2: 0.9}\ntrain.steps: 7\n")
    done = load_run_config(recipe, {"delta.rank": ("--rank", 4), "optim.lr": ("--lr", 0.25)}, ["optim.lr=0.125"])
    assert done.config.delta.rank == 4 and done.config.delta.alpha == 3
    assert done.config.optim.lr == 0.125 and done.config.optim.beta2 == 0.9 and done.config.train.steps == 7
    assert done.origins["delta.rank"] == "--rank"
    assert done.origins["optim.lr"] == "--set optim.lr"
    assert done.origins["delta.alpha"] == f"recipe {recipe}"
    assert done.given("optim.lr") and not done.given("optim.eps")


def test_run_yaml_records_every_value_and_origin_and_is_a_recipe(tmp_path):
    done = load_run_config(None, {"delta.rank": ("--rank", 4)}, ["data.separator='||'"])
    text = dump_run(done, "1.2.3")
    content = yaml.safe_load(text)
    assert content["delta"]["rank"] == 4 and content["origins"]["delta.rank"] == "--rank"
    assert content["origins"]["optim.eps"] == "default" and content["optim"]["eps"] == 1e-8
    assert content["data"]["separator"] == "||"
    again = load_run_config(write(tmp_path / "run.yaml", text), {}, [])
    assert again.config == done.config


def test_embedded_recipe_lies_under_everything(tmp_path):
    embedded = tmp_path / "e.yaml"
    embedded.write_text("train: {batch_size: 32}\ndelta: {rank: 3}\noptim: {lr: 0.1}\n")
    plain = load_run_config(None, {"delta.rank": ("--rank", 8)}, [], embedded)
    assert plain.config.train.batch_size == 32 and plain.config.delta.rank == 8
    assert plain.origins["train.batch_size"] == "embedded recipe"
    assert not plain.given("train.batch_size")
    own = load_run_config(None, {"model.base": ("--base", "x")}, [], embedded)
    assert own.config.train.batch_size == 16


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("optim.beta2=0.95", "optim.beta2", 0.95),
        ("data.separator='||'", "data.separator", "||"),
        ("data.separator=||", "data.separator", "||"),
        ("data.labels=[a, b]", "data.labels", ["a", "b"]),
        ("data.columns={text: content}", "data.columns", {"text": "content"}),
        ("a.b=x=y", "a.b", "x=y"),
    ],
)
def test_assignments(text, key, value):
    assert parse_assignment(text) == (key, value)


def test_one_entry_of_a_mapping_is_set_beside_the_others(tmp_path):
    recipe = write(tmp_path / "r.yaml", "data: {columns: {text: review, label: stars}}\n")
    done = load_run_config(recipe, {}, ["data.columns.label=score", "model.kwargs.hidden=3"])
    assert done.config.data.columns == {"text": "review", "label": "score"}
    assert done.config.model.kwargs == {"hidden": 3}
    assert done.origins["data.columns"] == "--set data.columns.label"
    path = load_run_config(None, {}, ["delta.rank_pattern.layers.0.attn.q=4"])
    assert path.config.delta.rank_pattern == {"layers.0.attn.q": 4}


def test_one_value_stands_for_a_list_of_one():
    done = load_run_config(None, {}, ["train.train_also=layers.0.*", "eval.metrics=loss", "data.weights=2"]).config
    assert done.train.train_also == ("layers.0.*",) and done.eval.metrics == ("loss",) and done.data.weights == (2.0,)


@pytest.mark.parametrize(
    ("flags", "sets", "message"),
    [
        ({"algo": ("--algo", "loar")}, [], "--algo: unknown algorithm 'loar'. Did you mean lora"),
        ({"delta.rank": ("--rank", 0)}, [], "--rank: 0 is not valid: must be at least 1"),
        ({"delta.alpha": ("--alpha", 0.0)}, [], "--alpha: 0.0 is not valid: alpha must be"),
        ({"delta.dropout": ("--dropout", 1.0)}, [], "--dropout: 1.0 is not valid"),
        ({"optim.schedule": ("--schedule", "cosin")}, [], "--schedule: 'cosin' is not valid"),
        ({"optim.schedule": ("--schedule", "cosin")}, [], "Did you mean cosine"),
        ({"data.task": ("--task", "clasify")}, [], "Did you mean classify"),
        ({"optim.lr": ("--lr", -1.0)}, [], "--lr: -1.0 is not valid"),
        ({"train.batch_size": ("--batch-size", 0)}, [], "--batch-size: 0"),
        ({"device": ("--device", "gpu")}, [], "--device: 'gpu' is not valid"),
        (
            {"algo": ("--algo", "full"), "delta.rank": ("--rank", 8)},
            [],
            "--rank: unknown key delta.rank for --algo full",
        ),
        ({}, ["optim.beta3=1"], "--set optim.beta3: unknown key optim.beta3. Did you mean optim.beta"),
        ({}, ["optim.beta2"], "--set optim.beta2 is not of the form KEY=VALUE"),
        ({}, ["train.seed=abc"], "--set train.seed: 'abc' is not valid"),
        ({}, ["nonsense=1"], "unknown key nonsense"),
        ({}, ["delta.variant=dorra"], "--set delta.variant: 'dorra' is not valid"),
        ({"optim.lr": ("--lr", float("inf"))}, [], "--lr: inf is not valid: must be a finite number"),
        ({"delta.alpha": ("--alpha", float("nan"))}, [], "--alpha: nan is not valid: must be a finite number"),
        ({}, ["delta.rank=[1, 2]"], "--set delta.rank: [1, 2] is not valid: must be a whole number"),
        ({}, ["delta.rank_pattern=5"], "--set delta.rank_pattern: 5 is not valid: must be a mapping, such as {a: b}"),
        ({}, ["data.columns.text=5"], "--set data.columns.text: 5 is not valid: must be text"),
        ({}, ["algo=[lora]"], "--set algo: unknown algorithm ['lora']"),
    ],
)
def test_wrong_values(flags, sets, message):
    with pytest.raises(ConfigError) as caught:
        load_run_config(None, flags, sets)
    assert message in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "must be a mapping"),
        ("a: [1\n", "line 2"),
        ("optim:\n  lr: 1\n  lr: 2\n", "line 3: key 'lr' stands twice"),
        ("optim: {lrr: 1}\n", "unknown key optim.lrr. Did you mean optim.lr"),
        ("optim: !!python/object:os.system {}\n", "line 1"),
        ("1: 2\n", "key 1 must be a word"),
    ],
)
def test_wrong_recipes(tmp_path, content, message):
    path = write(tmp_path / "bad.yaml", content)
    with pytest.raises(ConfigError) as caught:
        load_run_config(path, {}, [])
    assert message in caught.value.message and "bad.yaml" in caught.value.message


def test_recipe_that_is_not_text_or_not_there(tmp_path):
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_recipe(binary)
    with pytest.raises(ConfigError, match="no recipe nothing_like_it"):
        find_recipe("nothing_like_it")
    with pytest.raises(ConfigError, match="is a folder"):
        find_recipe(str(tmp_path))
    with pytest.raises(ConfigError, match="no recipe"):
        find_recipe("../../pyproject.toml")


def test_every_problem_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        load_run_config(None, {"delta.rank": ("--rank", 0), "optim.lr": ("--lr", -1.0)}, [])
    assert "--rank" in caught.value.message and "--lr" in caught.value.message


def test_another_algorithm_leaves_the_recipes_delta_settings_behind(tmp_path):
    recipe = write(tmp_path / "r.yaml", "algo: lora\ndelta: {rank: 2}\ntrain: {steps: 7}\n")
    done = load_run_config(recipe, {"algo": ("--algo", "full")}, [])
    assert done.config.algo == "full" and done.config.train.steps == 7
    with pytest.raises(ConfigError, match=r"--rank: unknown key delta\.rank"):
        load_run_config(recipe, {"algo": ("--algo", "full"), "delta.rank": ("--rank", 3)}, [])


def test_a_resolved_configuration_is_frozen():
    origins = {"optim.lr": "--lr"}
    resolved = load_run_config(None, {"optim.lr": ("--lr", 0.1)})
    again = type(resolved)(resolved.config, origins)
    origins["optim.lr"] = "--set optim.lr"
    assert again.origins == {"optim.lr": "--lr"}
    with pytest.raises(TypeError):
        again.origins["optim.lr"] = "default"
    with pytest.raises(FrozenInstanceError):
        again.config = resolved.config
    with pytest.raises(ValidationError):
        again.config.optim.lr = 1.0
    with pytest.raises(ValidationError):
        again.config.delta.rank = 1
    with pytest.raises(ValidationError):
        again.config.optim = again.config.optim


def test_shares_of_files_are_taken_from_their_names(tmp_path):
    given = load_run_config(None, {"data.path": ("--data", ("a.jsonl:0.8", "b.jsonl#5:9:0.2"))})
    assert given.config.data.path == ("a.jsonl", "b.jsonl#5:9") and given.config.data.shares == (0.8, 0.2)
    assert given.origins["data.shares"] == "--data FILE:SHARE"
    recipe = tmp_path / "mix.yaml"
    recipe.write_text("data:\n  path: [a.jsonl:4, b.jsonl:1]\n")
    assert load_run_config(str(recipe), {}).config.data.shares == (4, 1)
    with pytest.raises(ConfigError, match=r"--data: b\.jsonl has no share, and others do"):
        load_run_config(None, {"data.path": ("--data", ("a.jsonl:0.8", "b.jsonl"))})
    with pytest.raises(ConfigError, match=r"--data and --set data\.shares: both give shares"):
        load_run_config(None, {"data.path": ("--data", ("a.jsonl:1", "b.jsonl:1"))}, ["data.shares=[1, 2]"])
