"""One step resolves every setting of a run. The net is built from what it yields, and no setting changes afterwards."""

from pathlib import Path

import pytest
import yaml
from mindspore import nn

from petrun.assets import default_recipe
from petrun.config.load import dump_run, load_run_config
from petrun.errors import ConfigError
from petrun.inference.assembly import fit_delta, open_base
from petrun.parallel.context import setup
from petrun.parallel.layout import Layout
from petrun.training.run_folder import choose
from petrun.training.setup.resolve import resolve, resolve_with_layout
from petrun.training.setup.starting_delta import fit_to_base, read_start
from petrun.training.setup.training_setup import build_training

BERT = {"model.base": ("--base", "bert"), "data.path": ("--data", ["reviews.jsonl"]), "train.steps": ("--steps", 2)}
GPT2 = {"model.base": ("--base", "gpt2"), "data.path": ("--data", ["orders.jsonl"]), "train.steps": ("--steps", 2)}
TEXT = {"algo": ("--algo", "prompt"), "delta.tokens": ("--tokens", 3)}
RUNS = {
    "a task that petrun ships": ({}, []),
    "rows with labels": ({**BERT, "delta.rank": ("--rank", 2)}, ["eval.samples=0"]),
    "prompts": ({**GPT2, "optim.schedule": ("--schedule", "linear")}, ["data.eval_split=0.3"]),
    "text that becomes tokens": ({**GPT2, **TEXT}, ["delta.init_text=1+2"]),
    "a delta of petrun": ({**BERT, "init_delta": ("--init-delta", "bert-lora")}, ["delta.dropout=0.2"]),
    "an adapter of peft": ({**BERT, "init_delta": ("--init-delta", "adapter")}, []),
}
NOT_ASKED_FOR = {
    *("model.base", "model.base_strategy", "model.family", "model.config", "model.dtype", "data.format", "data.separator"),
    *("data.encoding", "data.regression", "data.template", "data.max_rows", "delta.target", "delta.init_text"),
    *("train.epochs", "train.steps", "train.eval_every_steps", "train.patience", "train.best_metric", "train.loss_scale"),
    *("train.save_every_steps", "train.max_seconds", "train.spike_ratio", "parallel.card_memory", "parallel.dp"),
    *("parallel.micro_batches", "eval.batch_size", "init_delta", "delta_strategy", "preference.beta"),
    *("model.quant", "train.tracker", "train.neftune_alpha", "image.resolution", "image.min_snr"),
}  # fmt: skip
"""Settings in which nothing says that a run does without, or does as its help says. run.yaml holds them so, as those of earlier runs do."""


def given(flags, sets=()):
    return load_run_config(None, flags, sets, embedded=default_recipe())


def resolved_of(flags, sets=(), out=None):
    asked = given(flags, sets)
    return resolve(asked, read_start(asked), setup("cpu"), 1, out)


@pytest.fixture
def with_adapter(place, petrun):
    done = petrun("delta convert bert-lora --to peft --base bert --out adapter")
    assert done.code == 0, done.err


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_left_unsettled_and_no_net_is_built(with_adapter, monkeypatch, name):
    def never(*args, **more):
        raise AssertionError("a part of a net is built")

    flags, sets = RUNS[name]
    out, _ = choose(None, "lora", "ckpt")
    monkeypatch.setattr(nn.Cell, "__init__", never)
    run = resolved_of(flags, sets, out)
    values = yaml.safe_load(dump_run(run.settings, "0"))
    origins = values["origins"]
    empty = {key for key in origins if not key.startswith("eval") and run.settings.value(key) is None}
    assert empty <= NOT_ASKED_FOR
    assert values["out"]["dir"] == "runs/lora-1" and not Path("runs").exists()
    assert run.config.optim.lr == run.schedule.peak and run.config.optim.warmup == run.schedule.warmup_steps
    assert origins["device"] == "inferred: what this machine has" and origins["data.task"] in (
        "inferred from the columns", "embedded recipe"
    )  # fmt: skip
    with pytest.raises(ValueError, match="frozen"):
        run.config.optim.lr = 1.0


def test_text_is_tokens_and_a_starting_deltas_settings_hold(with_adapter):
    flags, sets = RUNS["text that becomes tokens"]
    assert len(resolved_of(flags, sets).config.delta.init_ids) == 3
    flags, sets = RUNS["a delta of petrun"]
    started = resolved_of(flags, sets)
    assert (started.config.delta.rank, started.origins["delta.rank"]) == (2, "init-delta")
    assert (started.config.delta.dropout, started.origins["delta.dropout"]) == (0.2, "--set delta.dropout")
    flags, sets = RUNS["an adapter of peft"]
    foreign = resolved_of(flags, sets)
    assert foreign.config.delta.rank == 2 and foreign.origins["delta.target"] == "init-delta"
    assert foreign.start.read.config["peft_type"] == "LORA" and foreign.start.fitted.algo == "lora"


@pytest.mark.parametrize("name", ["rows with labels", "text that becomes tokens", "an adapter of peft"])
def test_a_run_trains_with_the_settings_that_were_resolved(with_adapter, petrun, name):
    flags, sets = RUNS[name]
    algo = "prompt" if "algo" in flags else "lora"
    expected = dump_run(resolved_of(flags, sets, choose(None, algo, "ckpt")[0]).settings, "0")
    line = [
        text
        for flag, value in flags.values()
        for text in (flag, ",".join(value) if isinstance(value, list) else str(value))
    ]
    done = petrun(["train", *line, *(text for one in sets for text in ("--set", one))])
    assert done.code == 0, done.err
    trained = yaml.safe_load(Path(f"runs/{algo}-1/run.yaml").read_text())
    assert {**trained, "petrun_version": "0"} == yaml.safe_load(expected)


def test_building_changes_no_setting(place, pynative):
    flags, sets = RUNS["a delta of petrun"]
    run = resolved_of(flags, sets)
    before = dump_run(run.settings, "0")
    built = build_training(run, scored=False)
    assert built.resolved is run and dump_run(run.settings, "0") == before
    assert built.assembled.config == run.config.delta and built.step.optimizer is not None


def test_a_run_resolves_to_the_same_from_its_own_settings(place):
    flags, sets = RUNS["prompts"]
    out, _ = choose(None, "lora", "ckpt")
    first = resolved_of(flags, sets, out)
    Path("run.yaml").write_text(dump_run(first.settings, "0"))
    again = load_run_config("run.yaml", {}, [], embedded=default_recipe())
    assert resolve_with_layout(again, None, setup("cpu"), Layout()).config == first.config


def test_only_the_number_of_the_folder_may_still_change(place):
    """Two runs that begin at once choose the same number; the second to make its folder takes the next."""
    first, second = choose(None, "lora", "ckpt")[0], choose(None, "lora", "ckpt")[0]
    run = resolved_of(BERT, (), second)
    first.create()
    moved = run.renumbered(second.create())
    assert (run.config.out.dir, moved.config.out.dir) == ("runs/lora-1", "runs/lora-2")
    assert moved.origins == run.origins and moved.config.model_copy(update={"out": run.config.out}) == run.config


@pytest.mark.parametrize("tool", ["peft", "mindpet"])
def test_a_delta_of_another_tool_fits_the_files_as_it_fits_the_net(place, petrun, pynative, tool):
    done = petrun(f"delta convert bert-lora --to {tool} --base bert --out other{'.ckpt' if tool == 'mindpet' else ''}")
    assert done.code == 0, done.err
    flags = {**BERT, "init_delta": ("--init-delta", "other" + (".ckpt" if tool == "mindpet" else ""))}
    asked, device = given(flags), setup("cpu")
    start, alpha = read_start(asked), 16.0 if tool == "mindpet" else None
    loaded = open_base(asked.config.model, device, task="classify", num_labels=2, seed=0)
    of_net = fit_delta(start, loaded, alpha)
    of_files = fit_to_base(asked.config, device, resolved_of(BERT).sources)(start, alpha)
    assert (of_files.algo, of_files.config, of_files.digest) == (of_net.algo, of_net.config, of_net.digest)
    assert set(of_files.tensors) == set(of_net.tensors)


def test_a_method_that_the_starting_delta_is_not_is_refused_first(place):
    with pytest.raises(ConfigError, match="--algo full contradicts --init-delta bert-lora"):
        read_start(given({**BERT, "algo": ("--algo", "full"), "init_delta": ("--init-delta", "bert-lora")}))
