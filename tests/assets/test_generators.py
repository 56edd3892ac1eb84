"""The text behind the embedded default: three sets that do not overlap, from the seed alone; values that stand in the sentence."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

from assets import bpe, documents, events, orders, start, words  # noqa: E402

from petrun.assets import base_folder, task_file  # noqa: E402

KEYS = ["customer", "item", "quantity", "price", "city", "due"]
DOCUMENTS = 3000


def pairs_of(record: str) -> list[tuple[str, str]]:
    return [tuple(line.split(": ", 1)) for line in record.split("\n")]  # type: ignore[misc]


def shipped(part: str) -> list[dict[str, list[dict[str, str]]]]:
    return [json.loads(line) for line in task_file(part).read_text().splitlines()]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [documents.document(0, i) for i in range(DOCUMENTS)]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(base_folder() / "tokenizer.json"))


def test_every_full_name_has_one_pool_and_every_pool_has_names():
    sizes = {"pretrain": 0, "train": 0, "eval": 0}
    for first in words.FIRST_NAMES:
        for last in words.SURNAMES:
            sizes[words.name_pool(f"{first} {last}")] += 1
    assert sum(sizes.values()) == len(words.FIRST_NAMES) * len(words.SURNAMES)
    assert sizes["pretrain"] > sizes["train"] > sizes["eval"] > 300


def test_people_of_the_shipped_rows_occur_in_no_other_set(texts):
    people = {
        part: {pairs_of(row["messages"][1]["content"])[0][1] for row in shipped(part)} for part in ("train", "eval")
    }
    assert not people["train"] & people["eval"]
    assert {words.name_pool(name) for name in people["train"]} == {"train"}
    assert {words.name_pool(name) for name in people["eval"]} == {"eval"}
    seen = {match for text in texts for match in re.findall(r"(?=\b([A-Z][a-z]+ [A-Z][a-z]+)\b)", text)}
    named = {name for name in seen if name.split()[0] in words.FIRST_NAMES and name.split()[1] in words.SURNAMES}
    assert len(named) > 1000
    assert {words.name_pool(name) for name in named} == {"pretrain"}


def test_no_message_is_shipped_twice_or_pretrained_on(texts):
    messages = [row["messages"][0]["content"] for part in ("train", "eval") for row in shipped(part)]
    assert len(messages) == len(set(messages)) > 1000
    assert not any(message.split("\n", 1)[1] in text for message in messages[-128:] for text in texts)


def test_the_task_is_not_in_the_pretraining_text(texts):
    assert not any(orders.INSTRUCTION in text for text in texts)
    for index in range(200):
        event = events.order(random.Random(index))
        assert not {name for field in event.fields for name in field.names} & set(KEYS)
        assert documents._form(random.Random(index), event) != "lines"
    joined = "\n".join(texts)
    assert all(f"\n{key}: " in joined for key in KEYS), "the keys themselves must be known words"


@pytest.mark.parametrize("part", ["train", "eval"])
def test_every_value_stands_in_the_message(part):
    for row in shipped(part):
        user, assistant = row["messages"]
        assert [user["role"], assistant["role"]] == ["user", "assistant"]
        message = user["content"].removeprefix(orders.INSTRUCTION + "\n")
        assert message != user["content"]
        found = pairs_of(assistant["content"])
        assert [key for key, _ in found] == KEYS
        for key, value in found:
            if key == "price":
                units, code = value.split()
                assert f" {units} {code}" in message or f" {units} {words.CURRENCIES[code]}" in message
            else:
                assert re.search(rf"(?<!\w){re.escape(value)}(?!\w)", message), (key, value, message)


def test_the_shipped_rows_are_what_the_seed_gives():
    for part in ("train", "eval"):
        rows = shipped(part)
        assert orders.task_rows(0, part, len(rows)) == rows
    assert orders.task_rows(1, "eval", 20) != shipped("eval")[:20]


def test_documents_depend_on_seed_and_index_alone(texts):
    code = "from assets.documents import document; print(document(0, 7), end='')"
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO / "scripts",
        env={"PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout == texts[7]
    assert documents.document(1, 7) != texts[7]


def test_all_kinds_and_forms_occur(texts):
    joined = "\n".join(texts)
    for sign in ("<|im_start|>user\nWrite ", "That is ", " | ", " = ", "\n- ", " -> ", "meal", "Expense", "room"):
        assert sign in joined


def test_the_shipped_tokenizer_is_what_the_script_trains(tokenizer):
    from make_assets import train_default_tokenizer

    assert train_default_tokenizer(0).to_str() == tokenizer.to_str()


def test_the_tokenizer_gives_back_every_row_and_any_text(tokenizer, texts):
    rows = [turn["content"] for part in ("train", "eval") for row in shipped(part) for turn in row["messages"]]
    for text in [*rows, *texts[:300], "Grüße, 東京 \t\n  x", '{"a": [1.5, "b"]}']:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_a_value_has_the_same_tokens_in_sentence_and_record(tokenizer):
    assert len(words.every_word()) > 400
    several = [word for word in words.every_word() if len(tokenizer.encode(f" {word}").ids) != 1]
    assert several == []


def test_special_tokens_and_chat_template():
    config = json.loads((base_folder() / "tokenizer_config.json").read_text())
    from jinja2 import Environment

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    template = Environment().from_string(config["chat_template"])
    assert template.render(messages=turns, add_generation_prompt=False) == documents.chat("a", "b")
    asked = template.render(messages=turns[:1], add_generation_prompt=True)
    assert documents.chat("a", "b").startswith(asked)
    assert config["eos_token"] == documents.TURN_END and config["chat_template"] == bpe.CHAT_TEMPLATE


def test_starting_weights_pass_every_value_on():
    config = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 50, "rope_theta": 1e5}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    weights = start.starting_weights(config, 3)
    again = start.starting_weights(config, 3)
    assert all((weights[name] == again[name]).all() for name in weights)
    v, o = weights["model.layers.1.self_attn.v_proj.weight"], weights["model.layers.1.self_attn.o_proj.weight"]
    product = o[:, 48:] @ v[16:]
    assert abs(product - product.T).max() < 1e-5
    assert abs(product.trace() - start.COPY * 16) < 1e-3
