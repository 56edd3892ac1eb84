"""A prompt template as a chat template writes the same text, in petrun and in transformers."""

import pytest

from petrun.data.templates.as_chat_template import as_chat_template
from petrun.data.templates.find_template import BUILTIN
from petrun.data.templates.template import Template, render_prompt, run_template

OWN = '  Task:\n{% if system %}\n  [{{ system }}]\n{% endif %}\n{#- a note -#}\n{% raw %}{{x}}{% endraw %} "é" \\n {{ prompt }}\n\n>> '
ROWS = [{"instruction": "Sort."}, {"instruction": "Sort.", "input": "b\na"}]


def written(text, messages, **values):
    values = {"eos_token": "</s>", "bos_token": "<s>", "messages": messages, "add_generation_prompt": True, **values}
    return run_template(Template(name="chat", text=text), values, "row 1", "")


def filled(row):
    return {"prompt": "", "instruction": "", "input": "", "system": "", **row}


@pytest.mark.parametrize("row", ROWS)
def test_alpaca_with_and_without_an_input(row):
    text = as_chat_template(BUILTIN["alpaca"], "instruction", with_bos=False)
    expected = render_prompt(Template(name="alpaca", text=BUILTIN["alpaca"]), filled(row), "row 1")
    turns = [{"role": "user", "content": row["instruction"]}]
    values = {"input": row["input"]} if "input" in row else {}
    assert written(text, turns, **values) == expected and expected.endswith("### Response:\n")
    answered = [*turns, {"role": "assistant", "content": "a b"}]
    assert written(text, answered, **values) == expected + "a b</s>"


def test_white_space_and_a_system_message_come_through():
    text = as_chat_template(OWN, "prompt", with_bos=True)
    turns = [{"role": "system", "content": "be\nbrief"}, {"role": "user", "content": "hi"}]
    row = filled({"prompt": "hi", "system": "be\nbrief"})
    assert written(text, turns) == "<s>" + render_prompt(Template(name="own", text=OWN), row, "row 1")


def test_transformers_writes_the_same():
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    for row in ROWS:
        text = as_chat_template(BUILTIN["alpaca"], "instruction", with_bos=False)
        turns = [{"role": "user", "content": row["instruction"]}]
        (found,), _ = utils.render_jinja_template(
            conversations=[turns],
            chat_template=text,
            add_generation_prompt=True,
            eos_token="</s>",
            input=row.get("input", ""),
        )
        assert found == render_prompt(Template(name="alpaca", text=BUILTIN["alpaca"]), filled(row), "row 1")


def test_other_columns_have_no_place_in_messages():
    assert as_chat_template("{{ question }}", "prompt", with_bos=False) is None
    assert as_chat_template("{{ prompt }}", "", with_bos=False) is None
    text = as_chat_template("{{ prompt }}", "prompt", with_bos=False)
    with pytest.raises(Exception, match="takes no system message"):
        written(text, [{"role": "system", "content": "x"}])


def test_earlier_turns_become_the_history():
    text = as_chat_template(BUILTIN["alpaca"], "instruction", with_bos=False)
    said = [("user", "One?"), ("assistant", "1"), ("user", "Two?")]
    row = filled({"instruction": "Two?", "history": [["One?", "1"]]})
    turns = [{"role": role, "content": content} for role, content in said]
    assert written(text, turns) == render_prompt(Template(name="alpaca", text=BUILTIN["alpaca"]), row, "row 1")
    with pytest.raises(Exception, match="takes turns of user and assistant"):
        written(text, [turns[0], turns[2]])
    with pytest.raises(Exception, match="takes one turn"):
        written(as_chat_template("{{ prompt }}", "prompt", with_bos=False), turns)
