"""A new language in small, as scripts/bench/new_language.py measures it: fewer tokens, and a lower loss from new rows and a LoRA."""

import itertools
import json

import pytest

from tests.curation.rows import write_jsonl
from tests.program import call
from tests.tiny import write_base

TEXTS = [
    f"{day}{place}{sky}。"
    for day, place, sky in itertools.product(
        "今天 明天 后天 昨天 周末".split(), "北京 上海 广州 成都".split(), "天气很好 下大雨 有大风".split()
    )
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_base(tmp_path / "gpt2", "gpt2")
    # The first token of a row is not predicted: with a line break there, all characters are.
    write_jsonl(tmp_path / "train.jsonl", [{"text": f"\n{text}"} for i, text in enumerate(TEXTS) if i % 5])
    write_jsonl(tmp_path / "held-out.jsonl", [{"text": f"\n{text}"} for text in TEXTS[::5]])
    return tmp_path


def test_new_rows_and_a_lora_lower_the_loss_of_a_character(folder, capfd):
    assert call(["vocab", "train", "train.jsonl", "--base", "gpt2", "--size", "290", "--out", "zh"]) == 0
    merge = ["vocab", "merge", "--base", "gpt2", "--tokenizer", "zh", "--out", "longer", "--held-out", "held-out.jsonl"]
    assert call(merge) == 0
    fewer = int(capfd.readouterr().out.split("after, ")[1].split("%")[0])
    assert fewer >= 40
    train = [
        "train",
        "embedded/new-language",
        "--base",
        "longer",
        "--data",
        "train.jsonl",
        "--eval-data",
        "held-out.jsonl",
    ]
    assert call([*train, "--seq-len", "32", "--steps", "30", "--lr", "0.005", "--out", "run"]) == 0
    found = json.loads((folder / "run" / "results.json").read_text())
    # Before and after have the same tokens, so their losses compare as those of characters do.
    assert found["delta"]["loss"] < 0.9 * found["base"]["loss"]
    assert found["algo"] == "lora+rows"
