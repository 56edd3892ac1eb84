"""The mark with which a chat template closes a turn, as a token or as text."""

import json

import pytest

from petrun.data.chat.end_of_turn import (
    NO_END_OF_TURN,
    EndOfTurn,
    end_of_turn_mark,
    end_of_turn_of_mark,
    find_end_of_turn,
)
from petrun.data.templates.find_template import BUILTIN
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import load_tokenizer
from tests.data.loading import read_examples
from tests.tiny import letters

MARKS = ("<|im_end|>", "<|end|>", "<|eot_id|>", "<end_of_turn>")
CHATML = BUILTIN["chatml"]
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
LLAMA3 = "{% for m in messages %}[{{ m.role }}]\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
GEMMA = "{% for m in messages %}<start>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
MISTRAL = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"  # noqa: E501
SYSTEM_FIRST = "{% if messages[0].role != 'system' %}{{ raise_exception('system') }}{% endif %}" + CHATML
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
)
OPEN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture
def tokenizer(tmp_path):
    """<eos> ends a sequence, and the marks are tokens; [/end] is not."""
    backend = letters()
    backend.add_special_tokens(list(MARKS))
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": "<pad>"}))
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        (CHATML, "<|im_end|>"),
        (PHI, "<|end|>"),
        (LLAMA3, "<|eot_id|>"),
        (GEMMA, "<end_of_turn>"),
        (MISTRAL, "<eos>"),
        (SYSTEM_FIRST, "<|im_end|>"),
        (THINKING, "<|im_end|>"),
    ],
)
def test_marks_of_known_layouts_are_tokens(tokenizer, text, mark):
    template = Template(name="own", text=text)
    assert end_of_turn_mark(template, tokenizer) == mark
    assert find_end_of_turn(template, tokenizer) == EndOfTurn(ids=frozenset({tokenizer.token_id(mark)}))


def test_a_mark_without_a_token_is_a_text(tokenizer):
    template = Template(name="own", text=CHATML.replace("<|im_end|>", "[/end]"))
    end_of_turn = find_end_of_turn(template, tokenizer)
    assert end_of_turn == EndOfTurn(texts=("[/end]",)) and end_of_turn.window == 7
    assert end_of_turn.cut("yes[/end]\nno[/end]") == "yes" and end_of_turn.cut("yes") == "yes"
    both = end_of_turn | end_of_turn_of_mark("<|end|>", tokenizer) | NO_END_OF_TURN
    assert both == EndOfTurn(ids=frozenset({tokenizer.token_id("<|end|>")}), texts=("[/end]",))


@pytest.mark.parametrize("text", [OPEN, BUILTIN["alpaca"], OPEN.replace("}}\n", "}}.\n"), "{{ messages[9].role }}"])
def test_templates_that_close_nothing(tokenizer, text):
    assert find_end_of_turn(Template(name="own", text=text), tokenizer) == NO_END_OF_TURN


def test_without_template_or_tokenizer(tokenizer):
    assert (
        find_end_of_turn(None, tokenizer) == find_end_of_turn(Template(name="own", text=CHATML), None) == NO_END_OF_TURN
    )


def test_rows_that_end_with_the_mark_count_as_ended(tokenizer, tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n")
    found = read_examples(tmp_path / "rows.jsonl", task="instruct", tokenizer=tokenizer, seq_len=99, template="chatml")
    assert found.stats.eos_supervised == 1
    scored = found[0].input_ids[found[0].labels != -100].tolist()
    assert scored == [*tokenizer.encode("b"), tokenizer.token_id("<|im_end|>")]
