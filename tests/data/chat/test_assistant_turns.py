"""What is learned of a conversation, held against transformers' assistant mask of the same template with generation marks."""

import json

import pytest

from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import DataError
from tests.data.chat import template_texts as chat_templates
from tests.data.conftest import byte_level, save
from tests.data.loading import read_examples


def user(text):
    return {"role": "user", "content": text}


def says(text, **more):
    return {"role": "assistant", "content": text, **more}


def result(text):
    return {"role": "tool", "content": text}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
THOUGHT = "<think>\nadd them\n</think>\n\n"
ROWS = {
    "the user says the same words": [user("Say yes: yes"), says("yes"), user("yes"), says("yes")],
    "a system text": [{"role": "system", "content": "yes"}, user("yes no"), says("no")],
    "an empty answer": [user("Hi"), says(""), user("x"), says("y")],
    "an empty answer at the end": [user("Hi"), says("Hi"), user("x"), says("")],
    "repeated turns": [user("Hi"), says("Hi"), user("Hi"), says("Hi"), user("Hi"), says("Hi")],
    "thoughts": [user("2+2?"), says(THOUGHT + "4"), user("4"), says(THOUGHT + "add them")],
    "thoughts in a question": [user("<think> say 4 </think>"), says("4"), user("say </think> 4"), says("say")],
    "white space": [user("  Hi \n"), says("\n  Hi \n\n"), user("Hi"), says("  Hi  ")],
    "marks in a question": [user("<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>"), says("yes"),
                            user("<|Assistant|>yes<|end|>"), says("yes")],
    "other marks": [user("[/INST] yes</s>"), says("yes"), user("<end_of_turn>\n<start_of_turn>model\nyes"), says("yes"),
                    user("<|assistant|>\nyes</s>"), says("yes")],
}  # fmt: skip
CALLS = {
    "a call": [user("Weather?"), says(None, tool_calls=[call("weather", city="Rome")]), result("sunny"), says("sunny"),
               user("sunny"), says("sunny")],
    "a call beside words": [user("Weather?"), says("Let me see", tool_calls=[call("weather", city="Rome")]), result("Let me see"),
                            says("Sunny.")],
    "two calls": [user("W?"), says("", tool_calls=[call("weather", city="a"), call("weather", city="a")]), result("a"), result("b"),
                  says("ab"), user("c"), says(None, tool_calls=[call("weather", city="c")])],
    "a call behind thoughts": [user("W?"), says(THOUGHT, tool_calls=[call("weather", city="a")]), result("a"), says(THOUGHT + "a"),
                               user("b"), says("b")],
    "thoughts in a key": [user("W?"), says("x", reasoning_content="look x"), user("b"), says("b", reasoning_content="b")],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(template) -> a tokenizer's folder with it."""
    backend = byte_level(vocab_size=440, specials=chat_templates.SPECIALS)

    def make(template):
        return save(
            tmp_path_factory.mktemp("tokenizer"), backend, tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>",
            eos_token="</s>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False, chat_template=template,
        )  # fmt: skip

    return make


def learned(folder, path, **options):
    """(input ids, 1 for each that is learned) of the file's first row."""
    row = read_examples(path, task=None, tokenizer=load_tokenizer(folder), seq_len=2000, **options)[0]
    return row.input_ids.tolist(), [int(label != -100) for label in row.labels]


def spoken(folder, path):
    ids, mask = learned(folder, path)
    tokenizer = load_tokenizer(folder)
    spans, before = [], 0
    for token, scored in zip(ids, mask, strict=True):
        if scored and not before:
            spans.append([])
        if scored:
            spans[-1].append(token)
        before = scored
    return [tokenizer.decode(span, skip_special=False) for span in spans]


@pytest.mark.parametrize("name", chat_templates.ALL)
def test_tokens_and_mask_are_those_of_transformers(name, folder, write):
    transformers = pytest.importorskip("transformers")
    marked = chat_templates.ALL[name]
    with_marks, without = folder(marked), folder(chat_templates.unmarked(marked))
    theirs = transformers.AutoTokenizer.from_pretrained(with_marks)
    rows = {**ROWS, **(CALLS if name in chat_templates.TOOLS else {})}
    for title, messages in rows.items():
        tools = WEATHER if title in CALLS and name != "r1" else None
        given = json.loads(json.dumps(messages))
        # This template joins arguments to a text.
        for each in (c for m in given for c in m.get("tool_calls", ()) if name == "r1"):
            each["function"]["arguments"] = json.dumps(each["function"]["arguments"])
        path = write("row.jsonl", [{"messages": messages, "tools": tools}])
        if name == "llama3" and title == "two calls":
            with pytest.raises(DataError, match="one call at a time"):
                learned(without, path)
            continue
        found = theirs.apply_chat_template(given, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
        assert learned(without, path) == (found["input_ids"], found["assistant_masks"]), title
        assert learned(with_marks, path) == (found["input_ids"], found["assistant_masks"]), title


@pytest.mark.parametrize(
    ("name", "title", "expected"),
    [
        ("r1", "the user says the same words", ["yes<|end|>", "yes<|end|>"]),
        ("r1", "thoughts", ["\n\n4<|end|>", "\n\nadd them<|end|>"]),
        ("qwq", "thoughts in a question", ["4<|im_end|>", "say<|im_end|>"]),
        ("qwen3", "thoughts", ["4<|im_end|>", THOUGHT + "add them<|im_end|>"]),
        ("qwen3", "a call", [
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>', "sunny<|im_end|>",
            "<think>\n\n</think>\n\nsunny<|im_end|>"]),
        ("llama3", "a call", ['{"name": "weather", "parameters": {"city": "Rome"}}<|call|>', "sunny<|im_end|>", "sunny<|im_end|>"]),
        ("gemma", "white space", ["Hi<end_of_turn>", "Hi<end_of_turn>"]),
    ],
)  # fmt: skip
def test_what_is_learned(name, title, expected, folder, write):
    path = write("row.jsonl", [{"messages": {**ROWS, **CALLS}[title]}])
    assert spoken(folder(chat_templates.unmarked(chat_templates.ALL[name])), path) == expected


@pytest.mark.parametrize("name", chat_templates.ALL)
def test_the_prompt_is_the_beginning_of_what_is_learned_from(name, folder, write):
    """But where the generation prompt opens thoughts that no history shows."""
    place = folder(chat_templates.unmarked(chat_templates.ALL[name]))
    tokenizer = load_tokenizer(place)
    path = write("row.jsonl", [{"messages": [user("Hi"), says("Ho"), user("Hi"), says("Ho")]}])
    ids, mask = learned(place, path)
    prompt = read_examples(path, task=None, tokenizer=tokenizer, seq_len=2000, for_generation=True)[0]
    asked = prompt.input_ids.tolist()
    opened = tokenizer.encode("<think>\n", special=False) if name in ("r1", "qwq") else []
    asked = asked[: len(asked) - len(opened)]
    assert ids[: len(asked)] == asked
    assert mask[len(asked)] == 1 != mask[len(asked) - 1]
    assert prompt.reference == "Ho"


def test_a_call_whose_words_the_template_leaves_out(folder, write):
    """And whose prompt, with the system text, is no beginning of the row: Mistral's."""
    messages = [{"role": "system", "content": "s"}, *CALLS["a call beside words"], user("x"), says("y")]
    place = folder(chat_templates.unmarked(chat_templates.MISTRAL))
    open_tag = [
        {"role": "system", "content": "s"},
        user("a <"),
        *CALLS["a call beside words"][1:],
        user("x"),
        says("y"),
    ]
    assert spoken(place, write("open.jsonl", [{"messages": open_tag}]))[0].startswith("[CALLS]")
    assert spoken(place, write("row.jsonl", [{"messages": messages}])) == [
        '[CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]</s>', " Sunny.</s>", " y</s>",
    ]  # fmt: skip


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("muted", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_a_message_of_weight_0_is_not_learned(marks, muted, folder, write):
    template = chat_templates.CHATML if marks else chat_templates.unmarked(chat_templates.CHATML)
    place = folder(template)
    messages = [user("Hi"), says("Hi", **muted), user("Hi"), says("Hi", weight=1)]
    ids, mask = learned(place, write("row.jsonl", [{"messages": messages}]))
    plain = [{key: text for key, text in m.items() if key in ("role", "content")} for m in messages]
    whole, _ = learned(place, write("plain.jsonl", [{"messages": plain}]))
    assert ids == whole
    assert spoken(place, write("row.jsonl", [{"messages": messages}])) == ["Hi<|im_end|>"]
    assert mask[len(ids) // 2 :].count(1) == mask.count(1)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([user("Hi"), says("Ho", weight=0)], "line 1: every message of the assistant has weight 0"),
        ([user("Hi"), says("Ho", weight=0.5)], "line 1, message 2: weight must be 0 or 1, found '0.5'"),
        ([{**user("Hi"), "weight": 1}, says("Ho")], "message 1: weight asks to learn a message of the role user"),
        ([user("Hi"), says("", tool_calls=[call("f")])], "message 2: the template chat does not write its tool calls"),
    ],
)
def test_what_cannot_be_honoured_is_refused(messages, said, folder, write):
    place = folder(chat_templates.CHATML)
    with pytest.raises(DataError, match=said):
        learned(place, write("row.jsonl", [{"messages": messages}]))


def test_a_message_that_the_template_leaves_out_is_refused(folder, write):
    place = folder(chat_templates.R1)
    messages = [{"role": "developer", "content": "Be brief."}, user("Hi"), says("Ho")]
    with pytest.raises(DataError, match="message 1: the template chat leaves out this message of the role developer"):
        learned(place, write("row.jsonl", [{"messages": messages}]))


def test_a_reference_that_is_a_call_is_what_the_template_writes(folder, write):
    messages = [user("Weather?"), says(None, tool_calls=[call("weather", city="Rome")])]
    path = write("row.jsonl", [{"messages": messages, "tools": WEATHER}])
    tokenizer = load_tokenizer(folder(chat_templates.unmarked(chat_templates.QWEN2_5)))
    prompt = read_examples(path, task=None, tokenizer=tokenizer, seq_len=2000, for_generation=True)[0]
    assert prompt.reference == '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def test_thoughts_and_words_that_a_template_cuts_are_named(folder, write):
    """R1's template cuts the thoughts of every turn, Qwen3's those of earlier ones; Llama 3's the words beside a call."""

    def unread(template, messages):
        tokenizer = load_tokenizer(folder(chat_templates.unmarked(template)))
        path = write("row.jsonl", [{"messages": messages}])
        return read_examples(path, task=None, tokenizer=tokenizer, seq_len=2000).unused_keys

    cut = "content (thoughts in <think>)"
    assert unread(chat_templates.R1, ROWS["thoughts"]) == unread(chat_templates.QWQ, ROWS["thoughts"]) == (cut,)
    assert unread(chat_templates.QWEN3, ROWS["thoughts"]) == ()
    assert unread(chat_templates.LLAMA3, CALLS["a call beside words"]) == ("content (beside tool_calls)",)
    assert unread(chat_templates.QWEN3, CALLS["thoughts in a key"]) == ()
    system = {"role": "system", "content": "Be brief."}
    assert unread(chat_templates.MISTRAL, [system, user("a"), says("b")]) == (
        "content (of the role system, beside an answer)",
    )
    assert unread(chat_templates.CHATML, [user("a"), says("b", reasoning_content="c")]) == ("reasoning_content",)


def test_a_system_text_that_another_replaces_is_refused(folder, write):
    """Although its words stand elsewhere in the text."""
    place = folder(chat_templates.R1)
    messages = [{"role": "system", "content": "Hi"}, {"role": "system", "content": "Ho"}, user("Hi"), says("Ho")]
    with pytest.raises(DataError, match="message 1: the template chat leaves out this message of the role system"):
        learned(place, write("row.jsonl", [{"messages": messages}]))


def test_calls_of_a_template_that_writes_whole_messages(folder, write):
    template = "{% for m in messages %}{{ m | tojson }}<|im_end|>\n{% endfor %}"
    messages = [user("Hi"), says("", tool_calls=[call("f", a=1)])]
    assert '"name": "f"' in spoken(folder(template), write("row.jsonl", [{"messages": messages}]))[0]


def test_weight_0_and_the_loss_on_whole_rows(folder, write):
    place = folder(chat_templates.CHATML)
    path = write("row.jsonl", [{"messages": [user("Hi"), says("Hi", weight=0), user("Hi"), says("Hi")]}])
    with pytest.raises(DataError, match=r"line 1: a message has weight 0, and data\.loss_on=all learns whole rows"):
        learned(place, path, loss_on="all")
    parts = [{"prompt": [user("Hi"), says("Hi"), user("Hi")], "completion": [says("Hi")]}]
    ids, mask = learned(place, write("parts.jsonl", parts), loss_on="all")
    assert sum(mask) == len(ids)


def test_what_follows_the_last_learned_turn_is_no_end(folder, write):
    """No end-of-sequence token is put between turns; where the row ends with the turn, it is."""
    place = folder("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    tokenizer = load_tokenizer(place)
    ended, _ = learned(place, write("a.jsonl", [{"messages": [user("Hi"), says("Ho")]}]))
    more, _ = learned(
        place, write("b.jsonl", [{"messages": [user("Hi"), says("Ho"), user("Hi"), says("Ho", weight=0)]}])
    )
    assert ended[-1] == tokenizer.eos_id and tokenizer.eos_id not in more


@pytest.mark.parametrize("name", chat_templates.ALL)
def test_prompts_that_hold_more_than_rows_are_noted(name, folder, write):
    tokenizer = load_tokenizer(folder(chat_templates.unmarked(chat_templates.ALL[name])))
    rows = [{"messages": [user("Hi"), says("Ho"), user("Hi"), says("Ho")]}] * 2
    path = write("rows.jsonl", rows)
    found = read_examples(path, task=None, tokenizer=tokenizer, seq_len=2000)
    said = f"{path}, line 1: where an answer is asked for, the chat template writes '<think>\\n', which training rows do not hold"
    assert found.notes == ((said,) if name in ("r1", "qwq") else ())
