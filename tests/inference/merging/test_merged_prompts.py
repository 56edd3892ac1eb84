"""A merged folder asks and ends as its delta did: the same rows give the same tokens and the same loss."""

import json

import numpy as np
import pytest

from petrun.data.templates.find_template import BUILTIN
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import load_tokenizer
from tests.data.loading import read_examples
from tests.deltas import make_delta
from tests.inference.generation.test_end_of_turn import ROWS as TALKS
from tests.inference.generation.test_end_of_turn import base_with
from tests.tiny import write_rows

TASKS = [
    {"instruction": "Sort.", "input": "b a", "output": "a b"},
    {"instruction": "Say hi.", "output": "hi"},
    {"instruction": "Two\n\nparts.", "input": "", "output": "ok\n"},
]
OWN = "Q: {{ question }}\nA: "


def merged(place, petrun, template, marks=("<|im_start|>", "<|im_end|>"), **config):
    base = base_with(place, "own", *marks, max_position_embeddings=512)
    if config:
        (base / "tokenizer_config.json").write_text(
            json.dumps({**json.loads((base / "tokenizer_config.json").read_text()), **config})
        )
    make_delta(place / "own.ckpt", base, "lora", rank=2, size=0.5, template=template)
    done = petrun("merge --base own --delta own.ckpt --out merged")
    assert done.code == 0, done.err
    return done, {path.name: path.read_text() for path in (place / "merged").iterdir() if path.suffix != ".safetensors"}


def tokens_of(rows, folder, template):
    found = read_examples(rows, task="instruct", tokenizer=load_tokenizer(folder), seq_len=400, template=template)
    return found.flat["input_ids"], found.flat["labels"]


@pytest.mark.parametrize("old", [None, "{{ messages[0].content }}"], ids=["no template", "another template"])
def test_alpaca_is_written_as_the_chat_template(place, petrun, old):
    text = BUILTIN["alpaca"]
    done, files = merged(place, petrun, text, chat_template=old) if old else merged(place, petrun, text)
    assert "note: the delta's template is written as the chat template" in done.out
    assert "### Instruction" in files["chat_template.jinja"]
    rows = write_rows(place / "tasks.jsonl", TASKS)
    before = tokens_of(rows, place / "own", Template(name="delta", text=text))
    after = tokens_of(rows, place / "merged", None)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_loss_of_the_merged_model_is_the_deltas(place, petrun):
    merged(place, petrun, BUILTIN["alpaca"])
    write_rows(place / "tasks.jsonl", TASKS)
    line = "eval --data tasks.jsonl --metrics loss --seq-len 400 --batch-size 3"
    losses = []
    for more in ("--base own --delta own.ckpt", "--base merged"):
        assert petrun(f"{line} {more} --out scores.json").code == 0
        losses.append(json.loads((place / "scores.json").read_text())["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_mark_of_the_template_ends_answers_of_the_merged_model(place, petrun):
    done, files = merged(place, petrun, BUILTIN["chatml"])
    assert files["chat_template.jinja"] == BUILTIN["chatml"]
    mark = load_tokenizer(place / "own").token_id("<|im_end|>")
    for name in ("config.json", "generation_config.json"):
        assert json.loads(files[name])["eos_token_id"] == [1, mark], name
    assert "answers end at any of <eos>, <|im_end|>" in done.out
    rows = write_rows(place / "talks.jsonl", TALKS)
    before = tokens_of(rows, place / "own", Template(name="delta", text=BUILTIN["chatml"]))
    after = tokens_of(rows, place / "merged", None)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    transformers = pytest.importorskip("transformers")
    config = transformers.GenerationConfig.from_pretrained(place / "merged")
    assert config.eos_token_id == [1, mark]
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "merged")
    ids = tokenizer.apply_chat_template(TALKS[0]["messages"], return_dict=False)
    assert ids[: len(before[0])] == before[0].tolist()


def test_a_mark_without_a_token_becomes_a_stop_string(place, petrun):
    done, files = merged(place, petrun, BUILTIN["chatml"], marks=())
    assert json.loads(files["generation_config.json"])["stop_strings"] == ["<|im_end|>"]
    assert json.loads(files["config.json"])["eos_token_id"] == 1
    assert "answers end in the text <|im_end|>, for which the tokenizer has no token" in done.out


def test_what_a_chat_template_cannot_say_is_said(place, petrun):
    done, files = merged(place, petrun, OWN)
    assert "note: the delta's template is left out" in done.out and "--template FILE" in done.out
    assert "chat_template.jinja" not in files and "generation_config.json" not in files


def test_a_delta_with_the_tokenizers_own_template_changes_no_template(place, petrun):
    _, files = merged(place, petrun, BUILTIN["chatml"], chat_template=BUILTIN["chatml"])
    assert "chat_template.jinja" not in files
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == BUILTIN["chatml"]
    assert json.loads(files["config.json"])["eos_token_id"][0] == 1


def test_a_single_file_and_the_way_back_say_what_they_leave(place, petrun):
    merged(place, petrun, BUILTIN["alpaca"])
    done = petrun("merge --base own --delta own.ckpt --out merged.ckpt")
    assert done.code == 0 and "the delta's template and end of turn are left out (--out FOLDER writes them)" in done.out
    done = petrun("unmerge --merged merged --delta own.ckpt --out back")
    assert done.code == 0 and "chat template and generation_config.json are those of the merged folder" in done.out
