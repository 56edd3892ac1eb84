"""Every layout of a tokenizer's folder gives the ids that transformers' AutoTokenizer gives.

layout_ids.json holds what AutoTokenizer of transformers 5.24 gave for every fourth text; `python -m tests.data.tokenizers.test_layouts`
writes it again.
"""

import json
import os
import shlex
import tempfile
from pathlib import Path

import pytest

from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import DataError
from tests.data.loading import read_examples
from tests.data.tokenizers.layouts import END, LAYOUTS, STOP, TEXTS, byte_level_file, spiece_file, vocab_files, write

STORED = Path(__file__).with_name("layout_ids.json")
CHOSEN = TEXTS[5::3]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_are_those_that_autotokenizer_gave(tmp_path, layout):
    tokenizer = load_tokenizer(LAYOUTS[layout](tmp_path / "base"))
    assert [tokenizer.encode(text) for text in CHOSEN] == json.loads(STORED.read_text())[layout]


@pytest.mark.all_only
def test_ids_are_those_that_autotokenizer_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    auto = pytest.importorskip("transformers").AutoTokenizer
    for number, (name, make) in enumerate(LAYOUTS.items()):
        folder = make(tmp_path / str(number))
        own, theirs = load_tokenizer(folder), auto.from_pretrained(folder)
        assert [own.encode(text) for text in TEXTS] == theirs(TEXTS)["input_ids"], name
        assert own.encode_many([("the good", "and")]).ids[0] == theirs("the good", "and")["input_ids"], name


def test_the_layouts_differ_where_they_should(tmp_path):
    """What each rule is about, spelt out."""

    def spelt(layout, text):
        tokenizer = load_tokenizer(LAYOUTS[layout](tmp_path / layout.replace(" ", "-")))
        return [tokenizer.token(i) for i in tokenizer.encode(text)]

    assert "ĊĊ" in spelt("qwen2 from vocabulary files", "a\n\nb")
    assert spelt("qwen2 from vocabulary files", "cafe\u0301")[-1] == "Ã©"
    assert ".py" in spelt("qwen2 with another splitting in tokenizer.json", "run test.py now")
    assert "<think>" in spelt("qwen2 with added_tokens.json beside tokenizer.json", "a <think> b")
    assert spelt("qwen2 whose end is an ordinary entry", "go<|im_end|>")[-1] == STOP
    assert spelt("bert cased with added tokens", "Good the [NEW]the") == [
        "[CLS]",
        "Good",
        "the",
        "[NEW]",
        "the",
        "[SEP]",
    ]
    assert spelt("gpt2 with add_bos_token", "the")[0] == END


def test_a_text_has_one_encoding_whatever_the_dropout(tmp_path):
    folder = write(
        tmp_path / "base", settings={"tokenizer_class": "PreTrainedTokenizerFast"}, backend=byte_level_file(dropout=0.5)
    )
    tokenizer = load_tokenizer(folder)
    assert {tuple(tokenizer.encode("the test run and now")) for _ in range(20)} == {
        tuple(load_tokenizer(write(tmp_path / "plain", backend=byte_level_file())).encode("the test run and now"))
    }


def test_a_general_class_keeps_its_tokenizer_json_for_qwen2_too(tmp_path):
    """The one rule that differs from transformers 5."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    folder = write(tmp_path / "base", settings=settings, model={"model_type": "qwen2"}, backend=byte_level_file())
    assert load_tokenizer(folder).encode("cafe\u0301") == byte_level_file().encode("cafe\u0301").ids


@pytest.mark.parametrize(
    ("settings", "files", "message"),
    [
        ({"tokenizer_class": "MyTokenizer"}, vocab_files(), "tokenizer_class is MyTokenizer, of which vocabulary files alone"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, vocab_files(), "tokenizer_class is a general class, of which"),
        ({"tokenizer_class": "BertTokenizer"}, vocab_files(), "BertTokenizer is read from vocab.txt; found vocab.json, merges.txt"),
        ({"tokenizer_class": "LlamaTokenizer"}, vocab_files(), "LlamaTokenizer is read from tokenizer.json; found vocab.json"),
        ({"tokenizer_class": "Qwen2Tokenizer"}, {"vocab.json": {}}, "read from vocab.json and merges.txt; found vocab.json"),
        (
            {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"900": {"content": "<x>"}}},
            vocab_files([END]),
            "token '<x>' is declared with the id 900, but the vocabulary's next free id is 292",
        ),
        ({"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"9": 3}}, vocab_files(), "added_tokens_decoder, 9 is no token: '3'"),
        ({"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"x": "y"}}, vocab_files(), "'x' is no token id"),
        ({"tokenizer_class": "GPT2Tokenizer", "extra_special_tokens": 3}, vocab_files(), "extra_special_tokens must be a list"),
        ({"tokenizer_class": "GPT2Tokenizer", "eos_token": ["</s>"]}, vocab_files(), "eos_token is no token"),
    ],
)  # fmt: skip
def test_refused_layouts(tmp_path, settings, files, message):
    with pytest.raises(DataError, match=message):
        load_tokenizer(write(tmp_path / "base", settings=settings, files=files))


def test_a_sentencepiece_model_whose_class_changes_its_ids_is_refused_with_the_commands_that_convert_it(tmp_path):
    folder = write(
        tmp_path / "my base", settings={"tokenizer_class": "AlbertTokenizer"}, files={"spiece.model": "\n\x01"}
    )
    with pytest.raises(
        DataError, match=r"holds spiece\.model, whose ids its class changes, and no tokenizer\.json"
    ) as caught:
        load_tokenizer(folder)
    assert "pip install transformers sentencepiece protobuf" in caught.value.hint
    program, place = shlex.split(caught.value.hint.split("network: ")[1])[-2:]
    assert place == str(folder) and "HF_HUB_OFFLINE=1" in caught.value.hint
    compile(program, "the advice", "exec")


def test_what_shapes_ids_is_in_the_key_of_tokenised_rows(tmp_path):
    """Two folders that differ in one setting never share an entry of the cache."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    changes = {
        "truncation_side": {"truncation_side": "left"},
        "split_special_tokens": {"split_special_tokens": True},
        "extra": {"extra_special_tokens": ["<think>"]},
        "eos": {"eos_token": "<s>"},
        "class": {"tokenizer_class": "LlamaTokenizer"},
        "template": {"chat_template": "{{ messages }}"},
    }
    folders = [write(tmp_path / "plain", settings=settings, backend=spiece_file())]
    folders += [
        write(tmp_path / name, settings={**settings, **change}, backend=spiece_file())
        for name, change in changes.items()
    ]
    folders += [
        write(tmp_path / "config", settings=settings, model={"bos_token_id": 1}, backend=spiece_file()),
        write(
            tmp_path / "added", settings=settings, files={"added_tokens.json": {"<new>": 330}}, backend=spiece_file()
        ),
        write(tmp_path / "frame", settings=settings, backend=spiece_file(bos=False)),
    ]
    assert len({load_tokenizer(folder).digest for folder in folders}) == len(folders)


def test_rows_cut_on_the_other_side_are_not_those_of_the_cache(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "b the a", "label": 0}\n{"text": "b", "label": 1}\n')
    rows = []
    for side in ("right", "left"):
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "truncation_side": side}
        tokenizer = load_tokenizer(write(tmp_path / side, settings=settings, backend=spiece_file()))
        examples = read_examples(data, task="classify", tokenizer=tokenizer, seq_len=3, cache_dir=tmp_path / "cache")
        rows.append([tokenizer.token(i) for i in examples[0].input_ids])
    assert rows == [["<s>", "▁", "b"], ["<s>", "the", "▁a"]]


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as place:
        loaded = {
            n: AutoTokenizer.from_pretrained(make(Path(place, str(i)))) for i, (n, make) in enumerate(LAYOUTS.items())
        }
        lines = [
            f"{json.dumps(n)}: {json.dumps(t(CHOSEN)['input_ids'], separators=(',', ':'))}" for n, t in loaded.items()
        ]
        STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
