"""Conversations -> text with the assistant's turns marked."""

import json

import pytest

from petrun.data.chat.assistant_mask import ChatRenderer
from petrun.data.chat.messages import as_messages
from petrun.data.templates.find_template import BUILTIN
from petrun.data.templates.template import Template
from petrun.errors import DataError
from tests.data.conftest import CHATML
from tests.data.loading import read_examples

ENDS = ("<|im_end|>", "</s>")
# As Qwen3: the last turn alone shows (empty) thoughts, so earlier turns render differently once others follow.
THINKING = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}"
    "{%- endif %}{%- endfor %}{%- for m in messages %}{%- if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|im_end|>\n' }}{%- else %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# As Llama 2: refuses conversations that do not alternate, strips contents, closes a turn with EOS.
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# No generation prompt at all: the header is part of what an assistant's message renders.
BARE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def conversation(*turns):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


def renderer(text):
    return ChatRenderer(Template(name="t", text=text), {"bos_token": "<s>", "eos_token": "</s>"}, ENDS)


def spoken(segments):
    return [segment.text for segment in segments if segment.supervised]


@pytest.mark.parametrize("template", [CHATML, BUILTIN["chatml"], MARKED])
def test_every_turn_is_supervised_with_its_end(template):
    messages = [{"role": "system", "content": "Be brief."}, *conversation("Hi", "Hello", "Hi", "Hello\nagain")]
    segments = renderer(template).segments(messages, "f")
    assert spoken(segments) == ["Hello<|im_end|>", "Hello\nagain<|im_end|>"]
    assert segments[0].text.endswith("user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert segments[-1].text == "\n"


def test_a_template_that_renders_the_last_turn_differently():
    segments = renderer(THINKING).segments(conversation("Hi", "Hi", "Hi", "Hi"), "f")
    assert spoken(segments) == ["Hi<|im_end|>", "<think>\n\n</think>\n\nHi<|im_end|>"]


def test_a_template_that_refuses_parts_of_a_conversation():
    segments = renderer(ALTERNATING).segments(conversation("Hi ", " Ho ", "x", "y"), "f")
    assert "".join(segment.text for segment in segments) == "<s>[INST] Hi [/INST] Ho </s><s>[INST] x [/INST] y </s>"
    assert spoken(segments) == [" Ho </s>", " y </s>"]


def test_a_template_without_generation_prompt():
    segments = renderer(BARE).segments(conversation("Hi", "Hello"), "f")
    assert spoken(segments) == ["assistant: Hello\n"]


@pytest.mark.parametrize("template", [CHATML, THINKING, ALTERNATING, MARKED])
def test_the_prompt_is_the_beginning_of_the_training_text(template):
    messages = conversation("Hi", "Hello", "What?", "That.")
    whole = renderer(template).segments(messages, "f")
    segments, reference = renderer(template).prompt(messages, "f")
    assert reference == "That."
    assert segments == whole[: len(segments)]
    assert spoken(whole[len(segments) :])[0].rstrip().endswith(ENDS)


def test_a_conversation_that_waits_for_an_answer():
    segments, reference = renderer(CHATML).prompt(conversation("Hi", "Hello", "What?"), "f")
    assert reference is None
    assert segments[-1].text.endswith("What?<|im_end|>\n<|im_start|>assistant\n")


def test_a_turn_that_is_not_rendered():
    with pytest.raises(DataError, match="f, message 2: the assistant's turn cannot be found") as caught:
        renderer("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}").segments(
            conversation("Hi", "Hello"), "f"
        )
    assert "{% generation %}" in caught.value.hint


def test_a_template_that_raises():
    with pytest.raises(DataError, match="f: the template t fails: roles must alternate") as caught:
        renderer(ALTERNATING).segments([{"role": "assistant", "content": "Hello"}], "f")
    assert caught.value.hint == "Roles of the row: assistant"


def test_plain_rows_as_conversations():
    assert as_messages("p", "c") == [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]
    assert as_messages("p", None) == [{"role": "user", "content": "p"}]


def test_tokens_of_a_conversation(chat, write):
    """The tokens are those of the whole rendered text; labels cover the turns; generation begins where training does."""
    rows = [{"messages": conversation("What is the capital?", "Paris.", "Why?", "Because it is.")}]
    path = write("chat.jsonl", rows)
    row = read_examples(path, task=None, tokenizer=chat, seq_len=256)[0]
    text = (
        "<|im_start|>user\nWhat is the capital?<|im_end|>\n<|im_start|>assistant\nParis.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause it is.<|im_end|>\n"
    )
    assert row.input_ids.tolist() == chat.encode(text, special=False)
    scored = row.input_ids[row.labels != -100].tolist()
    assert chat.decode(scored, skip_special=False) == "Paris.<|im_end|>Because it is.<|im_end|>"
    assert row.reference == "Because it is."
    prompt = read_examples(path, task=None, tokenizer=chat, seq_len=256, for_generation=True)[0]
    assert row.input_ids[: prompt.prompt_length].tolist() == prompt.input_ids.tolist()
    assert chat.decode(prompt.input_ids, skip_special=False).endswith("Why?<|im_end|>\n<|im_start|>assistant\n")
    assert row.labels[prompt.prompt_length - 1] == -100 != row.labels[prompt.prompt_length]


def test_eos_is_added_where_the_template_writes_none(spiece, write, tmp_path):
    (tmp_path / "bare.jinja").write_text(BARE)
    path = write("chat.jsonl", [{"messages": conversation("Hi", "Hello", "Hi", "Hello")}])
    examples = read_examples(path, task=None, tokenizer=spiece, seq_len=128, template=str(tmp_path / "bare.jinja"))
    scored = examples[0].labels != -100
    assert examples[0].input_ids[-1] == spiece.eos_id
    assert scored[-1]
    assert examples.stats.eos_supervised == 1
    assert spiece.decode(examples[0].input_ids[scored]) == "assistant: Hello\nassistant: Hello\n"


def test_real_chat_templates_take_tools(chat, write, tmp_path):
    (tmp_path / "tools.jinja").write_text(
        "{% if tools %}{{ tools | tojson }}\n{% endif %}" + CHATML.replace("{{ '<|im_start|>'", "{{ '<|im_start|>'")
    )
    rows = [{"messages": conversation("Hi", "Hello"), "tools": [{"name": "søk"}]}]
    examples = read_examples(
        write("chat.jsonl", rows), task=None, tokenizer=chat, seq_len=128, template=str(tmp_path / "tools.jinja")
    )
    assert chat.decode(examples[0].input_ids).startswith(json.dumps(rows[0]["tools"], ensure_ascii=False) + "\n")
