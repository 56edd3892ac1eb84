"""A run folder is read as it stands: finished, at work, or not a run at all."""

import json
import math

import pytest

from petrun.errors import ConfigError
from petrun.training.run_record import read_log, read_run

RUN_YAML = """\
algo: lora+bitfit
model: {base: ./llama, dtype: null}
delta: {rank: 8, rank_pattern: {q: 4}}
origins: {algo: --algo, model.base: --base, delta.rank: default}
petrun_version: 0.1.0
started_in: /somewhere
"""
STEP = {"step": 1, "epoch": 0.5, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 8, "seconds": 1.0}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN_YAML)
    lines = [{"step": 0, "epoch": 0.0, "evaluation": {"loss": 3.0}}, STEP, {**STEP, "step": 2, "loss": None}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    return tmp_path


def test_a_run_at_work_is_read_up_to_its_last_complete_line(run):
    found = read_run(run)
    assert [each["step"] for each in found.steps] == [1, 2] and not found.finished
    assert found.losses[0] == 2.0 and math.isnan(found.losses[1])
    assert found.evaluations == ({"step": 0, "epoch": 0.0, "evaluation": {"loss": 3.0}},)
    assert (found.delta, found.best, found.after, found.receipt) == (None, None, {}, {})


def test_settings_come_with_their_origins(run):
    found = read_run(run)
    assert found.settings["delta.rank"] == 8 and found.settings["delta.rank_pattern"] == {"q": 4}
    assert found.settings["model.dtype"] is None and "petrun_version" not in found.settings
    assert found.origins["algo"] == "--algo" and (found.algo, found.base) == ("lora+bitfit", "./llama")


def test_a_finished_run_has_scores_and_its_delta(run):
    (run / "results.json").write_text(json.dumps({"base": {"loss": 3.0}, "delta": {"loss": 1.0}, "receipt": {"a": 1}}))
    (run / "lora-bitfit.ckpt").touch()
    (run / "best.safetensors").touch()
    found = read_run(str(run))
    assert found.finished and (found.before, found.after) == ({"loss": 3.0}, {"loss": 1.0})
    assert (found.delta, found.best) == (run / "lora-bitfit.ckpt", run / "best.safetensors")


def test_a_log_is_read_on_from_where_it_was_left(run):
    lines, end = read_log(run / "log.jsonl")
    assert len(lines) == 3
    with (run / "log.jsonl").open("a") as file:
        file.write('ss": 1}\n')
    more, _ = read_log(run / "log.jsonl", end)
    assert [json.loads(line) for line in more] == [{"step": 3, "loss": 1}]
    assert read_log(run / "none.jsonl", 7) == ([], 7)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none", None, "none: no such folder"),
        ("empty", {}, "holds no run: there is no run.yaml"),
        ("torn", {"run.yaml": "algo: lora", "log.jsonl": "{]\n"}, "cannot be read"),
        ("wrong", {"run.yaml": "algo: [lora"}, "run.yaml, line 1"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, monkeypatch, name, text, words):
    monkeypatch.chdir(tmp_path)
    for file, content in (text or {}).items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_text(content)
    if text == {}:
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        read_run(name)
