"""Prompt and completion, or the turns of a conversation, tokenised apart: joined, the ids are those of the joined text."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer

from petrun.data.encode.prompt import prompt_ids
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import load_tokenizer
from tests.data.loading import read_examples
from tests.data.tokenizers.layouts import END, START, STOP, byte_level_file, spiece_file, write

ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TALK = [
    {"role": "user", "content": "run the test"},
    {"role": "assistant", "content": "the good"},
    {"role": "user", "content": "and now\n\nthe"},
    {"role": "assistant", "content": "the and\nthe"},
]
GENERAL = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}


def line_ends(backend):
    """The tokenizer with pieces for one and two line ends, as Llama's and Gemma's have them."""
    content = json.loads(backend.to_str())
    vocab = content["model"]["vocab"]
    for piece in ("\n", "\n\n"):
        vocab[piece] = len(vocab)
    content["model"]["merges"].append(["\n", "\n"])
    return Tokenizer.from_str(json.dumps(content))


def spiece(folder, *, settings=GENERAL, tokens=(), **more):
    backend = line_ends(spiece_file())
    backend.add_tokens(list(tokens))
    return load_tokenizer(write(folder, settings={**settings, **more}, backend=backend))


def kinds(folder):
    """Tokenizers of each kind by name."""
    yield "space mark before every stretch", spiece(folder / "always")
    yield (
        "space mark before the text",
        spiece(folder / "first", settings={**GENERAL, "tokenizer_class": "LlamaTokenizer"}),
    )
    tokens = [AddedToken(STOP, special=True), AddedToken(START, special=True)]
    yield "added turn marks", spiece(folder / "added", tokens=tokens)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": STOP}
    yield (
        "byte level",
        load_tokenizer(write(folder / "bytes", settings=settings, backend=byte_level_file(special=[END, START, STOP]))),
    )
    gpt2 = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}
    yield (
        "byte level with a space in front",
        load_tokenizer(write(folder / "spaced", settings=gpt2, backend=byte_level_file([END], [END]))),
    )


PAIRS = [
    ("run the test", " and now"), ("run:\n", "the and"), ("run:", "\nthe"), ("run: ", "the"), ("</s>", "the"), ("run</s>", "\n\nthe"),
    ("run\n", "\nthe"), ("run<|im_end|>", "\nthe"), ("", "the and"), ("run", "日本"), ("the", ".py"), ("a", ""),
]  # fmt: skip


def first_row(tmp_path, tokenizer, row, **given):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return read_examples(path, task="instruct", tokenizer=tokenizer, seq_len=256, **given)[0]


def test_joined_ids_are_those_of_the_joined_text_where_no_token_reaches_across(tmp_path):
    apart = {}
    for name, tokenizer in kinds(tmp_path):
        for prompt, completion in PAIRS:
            whole = tokenizer.encode(prompt + completion, special=False)
            seams = {tokenizer.decode(whole[:k], skip_special=False).lstrip() for k in range(len(whole) + 1)}
            ids = first_row(tmp_path, tokenizer, {"prompt": prompt, "completion": completion}).input_ids.tolist()
            own = ids[len(tokenizer.prefix_ids) : -1]
            assert ids == [*tokenizer.prefix_ids, *own, tokenizer.eos_id]
            assert tokenizer.decode(own, skip_special=False) == tokenizer.decode(whole, skip_special=False), (
                name,
                prompt,
                completion,
            )
            if prompt.lstrip() in seams and own != whole:
                apart[name, prompt, completion] = [tokenizer.token(i) for i in own]
    assert not apart


def test_a_completion_that_begins_with_a_line_end_gets_no_space_mark(tmp_path):
    tokenizer = spiece(tmp_path / "base")
    ids = first_row(tmp_path, tokenizer, {"prompt": "run:", "completion": "\nthe"}).input_ids
    assert [tokenizer.token(i) for i in ids] == ["<s>", "▁run", "<0x3A>", "\n", "the", "</s>"]


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        (ZEPHYR, "".join(f"<|{m['role']}|>\n{m['content']}</s>\n" for m in TALK)),
        (LLAMA2, "<s>[INST] run the test [/INST] the good </s><s>[INST] and now\n\nthe [/INST] the and\nthe </s>"),
    ],
)  # fmt: skip
def test_conversations_have_the_ids_of_their_rendered_text(tmp_path, template, rendered):
    for name, tokenizer in kinds(tmp_path):
        if tokenizer.eos_id is None or tokenizer.specials["eos_token"] != "</s>":
            continue
        row = first_row(tmp_path, tokenizer, {"messages": TALK}, template=Template(name="chat", text=template))
        assert row.input_ids.tolist() == tokenizer.encode(rendered, special=False), name
        asked = prompt_ids(TALK[:3], tokenizer, Template(name="chat", text=template))
        assert row.input_ids.tolist()[: len(asked)] == asked


def test_tokens_that_take_the_white_space_behind_them(tmp_path):
    """Phi-3's turn marks."""
    marks = [AddedToken(t, special=True, rstrip=True) for t in ("<|user|>", "<|assistant|>", "<|end|>")]
    tokenizer = spiece(tmp_path / "base", tokens=marks, eos_token="<|end|>")
    row = first_row(tmp_path, tokenizer, {"messages": TALK}, template=Template(name="chat", text=PHI3))
    rendered = "".join(f"<|{m['role']}|>\n{m['content']}<|end|>\n" for m in TALK)
    assert row.input_ids.tolist() == tokenizer.encode(rendered, special=False)


@pytest.mark.all_only
@pytest.mark.parametrize("template", [ZEPHYR, CHATML, LLAMA2])
def test_conversations_have_the_ids_of_apply_chat_template(tmp_path, monkeypatch, template):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    auto = pytest.importorskip("transformers").AutoTokenizer
    compared = 0
    for _, tokenizer in kinds(tmp_path):
        if (STOP if template == CHATML else "</s>") not in tokenizer.special_texts:
            continue
        theirs = auto.from_pretrained(tokenizer.files.folder)
        wanted = theirs.apply_chat_template(TALK, chat_template=template, tokenize=True, return_dict=False)
        row = first_row(tmp_path, tokenizer, {"messages": TALK}, template=Template(name="chat", text=template))
        assert row.input_ids.tolist() == wanted
        compared += 1
    assert compared


@pytest.mark.parametrize(
    ("prompt", "completion", "wanted"),
    [
        ("<s>run", "the", "<s> ▁run the </s>"),
        ("run", "the</s>", "<s> ▁run the </s>"),
        ("<s>run", "the</s>", "<s> ▁run the </s>"),
        ("run", "</s>", "<s> ▁run </s>"),
    ],
)
def test_an_end_that_stands_in_the_text_is_not_doubled(tmp_path, prompt, completion, wanted):
    tokenizer = spiece(tmp_path / "base")
    row = first_row(tmp_path, tokenizer, {"prompt": prompt, "completion": completion}, loss_on="all")
    assert " ".join(tokenizer.token(i) for i in row.input_ids) == wanted
    asked = first_row(tmp_path, tokenizer, {"prompt": prompt, "completion": completion}, for_generation=True)
    assert [tokenizer.token(i) for i in asked.input_ids] == ["<s>", "▁run"]


def test_documents_are_not_given_ends_twice(tmp_path):
    tokenizer = spiece(tmp_path / "base")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "<s>the</s>"}\n{"text": "the"}\n')
    examples = read_examples(path, task="lm", tokenizer=tokenizer, seq_len=16)
    assert examples[0].input_ids[0] == 1 != examples[0].input_ids[1]
    assert [row.input_ids.tolist().count(2) for row in (examples[0], examples[1])] == [1, 1]
    stream = tmp_path / "stream.txt"
    stream.write_text("<s>the and the")
    assert read_examples(stream, task="lm", tokenizer=tokenizer, seq_len=16)[0].input_ids.tolist().count(1) == 1


def test_a_prompt_cut_from_the_left_keeps_its_bos(tmp_path):
    tokenizer = spiece(tmp_path / "base")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "run the test and now the good", "completion": "a"}) + "\n")
    row = read_examples(path, task="instruct", tokenizer=tokenizer, seq_len=4, for_generation=True)[0]
    assert [tokenizer.token(i) for i in row.input_ids] == [
        "<s>",
        *(tokenizer.token(i) for i in tokenizer.encode("run the test and now the good")[-3:]),
    ]
    path.write_text(json.dumps({"messages": TALK[:1]}) + "\n")
    chat = read_examples(
        path,
        task="instruct",
        tokenizer=tokenizer,
        seq_len=4,
        for_generation=True,
        template=Template(name="chat", text=LLAMA2),
    )[0]
    assert chat.input_ids[0] == 1 and len(chat.input_ids) == 4
    path.write_text(json.dumps({"input_ids": [1, *range(300, 320)], "labels": [-100] * 21}) + "\n")
    tokens = read_examples(path, task="instruct", tokenizer=tokenizer, seq_len=4, for_generation=True)[0]
    assert tokens.input_ids.tolist() == [1, 317, 318, 319]
