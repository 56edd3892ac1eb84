"""Prompt templates."""

import pytest

from petrun.data.templates.find_template import BUILTIN, find_template
from petrun.data.templates.template import Template, render_prompt
from petrun.errors import ConfigError, DataError

EMPTY = {"prompt": "", "instruction": "", "input": "", "system": ""}


def render(template, **row):
    found = template if isinstance(template, Template) else Template(name=template, text=BUILTIN[template])
    return render_prompt(found, {**EMPTY, **row}, "f, line 1")


def test_plain_adds_no_character_to_a_prompt():
    assert render("plain", prompt="Translate: chat ->") == "Translate: chat ->"
    assert render("plain", input="name : A") == "name : A\n"
    assert render("plain", instruction="Sum", input="1 2", system="S") == "S\nSum\n1 2\n"


def test_alpaca():
    with_input = render("alpaca", instruction="Sum.", input="1 2")
    assert with_input.endswith("### Instruction:\nSum.\n\n### Input:\n1 2\n\n### Response:\n")
    assert "paired with an input" in with_input
    alone = render("alpaca", prompt="Sing.")
    assert alone.endswith("completes the request.\n\n### Instruction:\nSing.\n\n### Response:\n")
    assert "### Input" not in alone


def test_a_file_sees_every_column(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("\ufeff{{ country|upper }}: {{ prompt }}\nA:\n\n", encoding="utf-8")
    template = find_template(str(path), chat_template=None, row_kind="completion")
    assert template.name == "mine.jinja"
    # jinja2 drops one newline at the end.
    assert render(template, prompt="capital?", country="peru") == "PERU: capital?\nA:\n"
    assert render(template, prompt="capital?", country="peru", self="a column may have any name").startswith("PERU")
    with pytest.raises(DataError, match=r"f, line 1: the template mine.jinja fails: 'country' is undefined") as caught:
        render(template, prompt="capital?", kountry="peru")
    assert "kountry" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "chat_template", "name"),
    [
        ("completion", None, "plain"),
        ("completion", "{{ messages }}", "plain"),
        ("reference", "{{ messages }}", "plain"),
        ("instruction", None, "alpaca"),
        ("instruction", "{{ messages }}", "chat"),
        ("chat", "{{ messages }}", "chat"),
    ],
)
def test_defaults(kind, chat_template, name):
    assert find_template(None, chat_template=chat_template, row_kind=kind).name == name


def test_rows_without_a_prompt_take_no_template():
    assert find_template(None, chat_template="{{ messages }}", row_kind="text") is None
    assert find_template(Template(name="delta", text="x"), chat_template=None, row_kind="tokens") is None
    with pytest.raises(ConfigError, match="rows of the kind 'tokens' have no prompt"):
        find_template("plain", chat_template=None, row_kind="tokens")


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("alpacca", "completion", "--template alpacca: neither a file nor a built-in template"),
        ("chat", "completion", "--template chat: the tokenizer has no chat template"),
        (None, "chat", "the rows hold messages, but the tokenizer has no chat template"),
        ("alpaca", "chat", "the template alpaca does not read `messages`"),
        (Template(name="delta", text="{{ prompt }}"), "chat", "the template delta does not read `messages`"),
    ],
)
def test_templates_that_do_not_fit(value, kind, message):
    with pytest.raises(DataError, match=message):
        find_template(value, chat_template=None, row_kind=kind)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{% if x %}", r"bad.jinja, line 1: Unexpected end of template"),
        (b"a\n{{ x | nofilter }}", r"bad.jinja, line 2: No filter named 'nofilter'"),
        (b"\xff", "bad.jinja: the template is not UTF-8 text"),
        (b"\n", "bad.jinja: the template is empty"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "bad.jinja"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        find_template(str(path), chat_template=None, row_kind="completion")


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ prompt.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
    ],
)
def test_templates_run_in_a_sandbox(attack):
    with pytest.raises(DataError, match="fails"):
        render(Template(name="attack", text=attack), prompt="x")


def test_a_template_that_fails_names_the_row():
    with pytest.raises(DataError, match=r"f, line 1: the template t fails: .*by zero"):
        render(Template(name="t", text="{{ 1 // 0 }}"))
