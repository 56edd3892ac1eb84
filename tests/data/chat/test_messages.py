"""Conversations, tools and what lies beside them, in the forms that files have."""

import json

import pytest

from petrun.data.chat.messages import Arguments, read_conversation, read_messages, read_tools
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import ConfigError, DataError
from tests.data.chat import template_texts as chat_templates
from tests.data.chat.template_texts import unmarked
from tests.data.chat.test_assistant_turns import call, folder, result, says, user  # noqa: F401 - a fixture
from tests.data.conftest import byte_level, save
from tests.data.loading import read_examples

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}  # fmt: skip
ADD = {"type": "function", "function": {"name": "add", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}}}}  # fmt: skip
ASKED = [
    user("Weather in Rome?"),
    says(None, tool_calls=[call("weather", city="Rome")]),
    result("sunny"),
    says("Sunny."),
]
ADDED = [user("1 + 1?"), says(None, tool_calls=[call("add", a=1)]), result("2"), says("2.")]


@pytest.fixture(scope="module")
def qwen(folder):  # noqa: F811
    return load_tokenizer(folder(unmarked(chat_templates.QWEN3)))


def texts(path, tokenizer, **options):
    rows = read_examples(path, task="instruct", tokenizer=tokenizer, seq_len=2000, **options)
    return [tokenizer.decode(rows[i].input_ids, skip_special=False) for i in range(len(rows))]


def learned(path, tokenizer, **options):
    rows = read_examples(path, task="instruct", tokenizer=tokenizer, seq_len=2000, **options)
    return [tokenizer.decode(row.input_ids[row.labels != -100], skip_special=False) for row in rows]


def with_text_arguments(messages):
    copy = json.loads(json.dumps(messages))
    for each in (c for m in copy for c in m.get("tool_calls") or ()):
        each["function"]["arguments"] = json.dumps(each["function"]["arguments"])
    return copy


FORMS = {
    "tools as JSON text": lambda row: {**row, "tools": json.dumps(row["tools"])},
    "each tool as JSON text": lambda row: {**row, "tools": [json.dumps(tool) for tool in row["tools"]]},
    "arguments as JSON text": lambda row: {**row, "messages": with_text_arguments(row["messages"])},
    "messages as JSON text": lambda row: {**row, "messages": json.dumps(row["messages"])},
    "calls as JSON text": lambda row: {**row, "messages": [
        {**m, "tool_calls": json.dumps(m["tool_calls"])} if "tool_calls" in m else m for m in row["messages"]]},
    "null keys": lambda row: {**row, "messages": [
        {"tool_calls": None, "name": None, "weight": None, "reasoning_content": None, **m} for m in row["messages"]]},
    "null in schemas": lambda row: {**row, "tools": [
        {**t, "strict": None, "function": {**t["function"], "description": None}} for t in row["tools"]]},
    "parts of type text": lambda row: {**row, "messages": [
        {**m, "content": [{"type": "text", "text": part} for part in (m["content"][:2], m["content"][2:])]}
        if m["content"] else m for m in row["messages"]]},
    "ShareGPT": lambda row: {"tools": row["tools"], "conversations": [
        {"from": "function_call", "value": json.dumps(m["tool_calls"][0]["function"])} if "tool_calls" in m
        else {"from": {"user": "human", "assistant": "gpt", "tool": "observation"}[m["role"]], "value": m["content"]}
        for m in row["messages"]]},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same_tokens(form, qwen, write):
    rows = [{"messages": ASKED, "tools": [WEATHER, ADD]}, {"messages": ADDED, "tools": [ADD]}]
    expected = texts(write("objects.jsonl", rows), qwen)
    assert '"arguments": {"city": "Rome"}}' in expected[0]
    assert texts(write("form.jsonl", [FORMS[form](row) for row in rows]), qwen) == expected
    assert learned(write("form.jsonl", [FORMS[form](row) for row in rows]), qwen) == learned(
        write("objects.jsonl", rows), qwen
    )


def test_parquet_gives_what_its_rows_were_made_of(qwen, write, tmp_path):
    """Arrow gives every object the keys of all others, and sorts them."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": ASKED, "tools": [WEATHER, ADD]}, {"messages": ADDED, "tools": [ADD]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = texts(tmp_path / "rows.parquet", qwen)
    assert found == texts(write("rows.jsonl", rows), qwen)
    assert not any(word in text for text in found for word in ("null", "None"))


@pytest.mark.parametrize("nothing", [None, [], "[]", "", "null", " [ ] "])
def test_no_tools(nothing, qwen, write):
    plain = {"messages": [user("Hi"), says("Ho")]}
    assert texts(write("none.jsonl", [{**plain, "tools": nothing}]), qwen) == texts(write("a.jsonl", [plain]), qwen)
    assert read_tools(nothing, "f") is None


def test_arguments_are_json_wherever_a_template_writes_them():
    """Some templates apply tojson, others join text."""
    arguments = read_messages([says("", tool_calls=[call("f", a="é")])], "f")[0]["tool_calls"][0]["function"][
        "arguments"
    ]
    assert isinstance(arguments, Arguments)
    assert "x" + arguments + "y" == 'x{"a": "é"}y'
    assert f"{arguments}" == json.dumps(arguments, ensure_ascii=False) == '{"a": "é"}'
    nothing = says("", tool_calls=[{"function": {"name": "f", "arguments": ""}}])
    assert read_messages([nothing], "f")[0]["tool_calls"][0]["function"]["arguments"] == {}


def test_older_calls_and_thoughts():
    older = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    assert read_messages([older], "f")[0]["tool_calls"] == [{"name": "f", "arguments": {"a": 1}}]
    for key in ("reasoning_content", "reasoning", "thinking"):
        assert read_messages([says("x", **{key: "y"})], "f")[0]["reasoning_content"] == "y"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"messages": "hi"}, "f: messages must be a list"),
        (
            {"messages": [user([{"type": "image_url"}])]},
            "f, message 1: `content` must be text .* found one of type image_url",
        ),
        ({"messages": [{"from": "alien", "value": "x"}]}, "f, message 1: unknown role 'alien'"),
        (
            {"messages": [says("", tool_calls=[{"function": {"name": "f", "arguments": "a=1"}}])]},
            "call 1: arguments must be a JSON",
        ),
        ({"messages": [user("half \ud83d")]}, "f, message 1: .* surrogate"),
        ({"messages": [user("x")], "tools": "weather"}, "f: tools must be a list"),
        ({"messages": [user("x")], "tools": ["weather"]}, "f: tool 1 must be a JSON object"),
        ({"messages": [user("x")], "enable_thinking": "perhaps"}, "f: enable_thinking must be true or false"),
        ({"messages": [user("x")], "chat_template_kwargs": [1]}, "f: chat_template_kwargs must be an object"),
        ({"messages": [user("x")], "chat_template_kwargs": {"messages": 1}}, "cannot set messages"),
        ({"messages": [user("x")], "history": [["a"]]}, "f: history, turn 1"),
        ({"messages": [{"role": "system", "content": "a"}, user("x")], "system": "b"}, "two different system texts"),
    ],
)
def test_what_cannot_be_read(cells, said):
    with pytest.raises(DataError, match=said):
        read_conversation(cells, "f")


def test_system_and_history_come_before_the_messages():
    found = read_conversation({"messages": [user("c")], "system": "s", "history": '[["a", "b"]]'}, "f").messages
    assert [(m["role"], m["content"]) for m in found] == [
        ("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"),
    ]  # fmt: skip
    same = read_conversation({"messages": [{"role": "system", "content": "s"}, user("c")], "system": "s"}, "f").messages
    assert [m["role"] for m in same] == ["system", "user"]


def test_rows_of_other_tools(qwen, write):
    """ms-swift's query and response, Alpaca's history, and prompts and completions that are messages."""
    turns = [{"role": "system", "content": "s"}, user("a"), says("b"), user("c"), says("d")]
    expected = texts(write("messages.jsonl", [{"messages": turns}]), qwen)
    swift = {"query": "c", "response": "d", "history": [["a", "b"]], "system": "s"}
    assert texts(write("swift.jsonl", [swift]), qwen, template="chat") == expected
    alpaca = {"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]], "system": "s"}
    assert texts(write("alpaca.jsonl", [alpaca]), qwen) == expected
    parts = write("parts.jsonl", [{"prompt": turns[:-1], "completion": turns[-1:]}])
    assert texts(parts, qwen) == expected
    # Of a prompt nothing is learned, whoever says it.
    assert learned(parts, qwen) == ["<think>\n\n</think>\n\nd<|im_end|>"]
    prompt = read_examples(parts, task=None, tokenizer=qwen, seq_len=2000, for_generation=True)[0]
    assert prompt.reference == "d"
    assert qwen.decode(prompt.input_ids, skip_special=False).endswith("c<|im_end|>\n<|im_start|>assistant\n")
    alone = read_examples(
        write("p.jsonl", [{"prompt": turns[:-1]}]), task=None, tokenizer=qwen, seq_len=2000, need_target=False,
        for_generation=True,
    )  # fmt: skip
    assert alone[0].input_ids.tolist() == prompt.input_ids.tolist()


def test_system_and_history_under_the_built_in_templates(bpe, write):
    row = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    found = texts(write("row.jsonl", [row]), bpe)[0]
    assert found.startswith("s\n\nBelow is an instruction that describes a task. Write a response")
    assert "\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc\n\n### Response:\nd" in found
    with pytest.raises(
        DataError, match="line 1: the template plain does not read history, which this row holds"
    ) as caught:
        texts(write("row.jsonl", [row]), bpe, template="plain")
    assert "data.ignore=[history]" in caught.value.hint
    assert texts(write("row.jsonl", [row]), bpe, template="plain", ignore=["history"])[0] == "s\nc\nd<|im_end|>"
    with pytest.raises(ConfigError, match=r"data\.ignore: .* has no column 'histroy'"):
        texts(write("row.jsonl", [row]), bpe, ignore=["histroy"])


def test_tools_that_the_template_does_not_read_are_refused(chat, write):
    row = {"messages": [user("Hi"), says("Ho")], "tools": [ADD]}
    with pytest.raises(DataError, match="line 1: the template chat does not read tools") as caught:
        texts(write("row.jsonl", [row]), chat)
    assert "data.ignore=[tools]" in caught.value.hint
    assert texts(write("row.jsonl", [row]), chat, ignore=["tools"]) == texts(
        write("b.jsonl", [{"messages": row["messages"]}]), chat
    )


def test_what_nothing_reads_is_named(chat, word_piece, write):
    rows = [{"messages": [{**user("Hi"), "name": "Eve"}, says("Ho", id=7)], "source": "web", "n": 1}]
    found = read_examples(write("row.jsonl", rows), task=None, tokenizer=chat, seq_len=100)
    assert (found.unused_columns, found.unused_keys) == (("source", "n"), ("name", "id"))
    labelled = [{"text": "good", "label": 1, "idx": 1}, {"text": "bad", "label": 0, "idx": 2}]
    found = read_examples(
        write("b.jsonl", labelled), task=None, tokenizer=word_piece, seq_len=9, family_tasks=["classify"]
    )
    assert found.unused_columns == ("idx",)


def test_thinking_is_switched_by_rows_and_settings(qwen, write):
    """A value of the settings is the template's default: the delta carries it, and a row's own value wins."""
    empty = "<think>\n\n</think>\n\n"
    asked = [{"messages": [user("Hi")]}, {"messages": [user("Hi")], "enable_thinking": False},
             {"messages": [user("Hi")], "chat_template_kwargs": '{"enable_thinking": true}'}]  # fmt: skip
    path = write("rows.jsonl", asked)
    options = {"for_generation": True, "need_target": False}
    assert [text.endswith(empty) for text in texts(path, qwen, **options)] == [False, True, False]
    off = {"enable_thinking": False}
    assert [t.endswith(empty) for t in texts(path, qwen, chat_template_kwargs=off, **options)] == [True, True, False]
    rows = read_examples(path, task=None, tokenizer=qwen, seq_len=99, chat_template_kwargs=off, **options)
    assert [t.endswith(empty) for t in texts(path, qwen, template=rows.template, **options)] == [True, True, False]
    again = read_examples(
        path, task=None, tokenizer=qwen, seq_len=99, template=rows.template, chat_template_kwargs=off, **options
    )
    assert again.template == rows.template
    with pytest.raises(
        ConfigError, match=r"data.chat_template_kwargs.enable_thinkin: the template chat does not read it"
    ):
        texts(path, qwen, chat_template_kwargs={"enable_thinkin": False}, **options)


def test_a_preset_template_renders_as_before(write, tmp_path):
    """Also where it begins with white space or a newline."""
    for text in (
        "\n  {% if messages %}{{ messages[0].content }}{{ mood }}{% endif %}",
        "  {% if messages %}\nx{{ messages[0].content }}{{ mood }}{% endif %}",
    ):
        tokenizer = load_tokenizer(save(tmp_path / "t", byte_level(), chat_template=text, eos_token="<|im_end|>"))
        path = write("r.jsonl", [{"messages": [user("Hi")], "chat_template_kwargs": {"mood": "é\n"}}])
        plain = write("p.jsonl", [{"messages": [user("Hi")]}])
        options = {"for_generation": True, "need_target": False}
        expected = texts(path, tokenizer, **options)
        assert texts(plain, tokenizer, chat_template_kwargs={"mood": "é\n"}, **options) == expected
