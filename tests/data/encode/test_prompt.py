"""One prompt or conversation as the row of a file that it stands for."""

import json

import pytest

from petrun.data.encode.prompt import prompt_ids
from petrun.data.templates.find_template import BUILTIN
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import DataError
from tests.data.loading import read_examples
from tests.tiny import letters

ALPACA, PLAIN = (Template(name=name, text=BUILTIN[name]) for name in ("alpaca", "plain"))


@pytest.fixture
def tokenizer(tmp_path):
    letters().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": "<pad>"}))
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("row", "source"),
    [
        ({"prompt": "hi", "completion": "x"}, "prompt"),
        ({"instruction": "hi", "output": "x"}, "instruction"),
        ({"input": "hi", "reference": "x"}, "input"),
    ],
)
@pytest.mark.parametrize("template", [ALPACA, PLAIN], ids=["alpaca", "plain"])
def test_a_text_or_one_message_is_the_prompt_of_the_trained_rows(tokenizer, tmp_path, row, source, template):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    found = read_examples(
        tmp_path / "rows.jsonl",
        task="instruct",
        tokenizer=tokenizer,
        seq_len=999,
        template=template,
        for_generation=True,
    )
    wanted = found[0].input_ids.tolist()
    assert prompt_ids("hi", tokenizer, template, source=source) == wanted
    assert prompt_ids([{"role": "user", "content": "hi"}], tokenizer, template, source=source) == wanted


def test_a_conversation_becomes_system_and_history(tokenizer):
    turns = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?")]
    ids = prompt_ids([{"role": role, "content": text} for role, text in turns], tokenizer, ALPACA, source="instruction")
    text = tokenizer.decode(ids)
    assert text.startswith("Be brief.\n\nBelow is an instruction") and text.endswith("### Response:\n")
    assert "### Instruction:\nOne?\n\n### Response:\n1\n\n### Instruction:\nTwo?" in text


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (("user", "assistant"), "does not read `messages`"),
        (("user", "user"), "does not read `messages`"),
        (("user", "tool", "user"), "does not read `messages`"),
        (("user", "assistant", "user"), "history"),
    ],
)
def test_what_no_row_can_say_is_refused(tokenizer, roles, words):
    template = Template(name="own", text="{{ prompt }}")
    with pytest.raises(DataError, match=words):
        prompt_ids([{"role": role, "content": "a"} for role in roles], tokenizer, template)
