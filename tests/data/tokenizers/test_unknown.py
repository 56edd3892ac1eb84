"""Text that the tokenizer cannot say is counted and shown."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from petrun.data.examples.summary import data_line, unknown_line
from petrun.data.tokenizers.tokenizer import load_tokenizer
from tests.data.loading import read_examples
from tests.data.tokenizers.layouts import BERT_VOCAB, LAYOUTS, write

TALK = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)


def rows_of(tmp_path, tokenizer, *texts, **given):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": i % 2}) + "\n" for i, text in enumerate(texts)))
    return read_examples(path, **{"task": "classify", "tokenizer": tokenizer, "seq_len": 64, **given})


def test_words_of_a_word_piece_vocabulary(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path / "bert", files=BERT_VOCAB))
    rows = rows_of(tmp_path, tokenizer, "the good 国 and 国", "the unsayable", cache_dir=tmp_path / "cache")
    assert rows.stats.unknown == 3 and rows.stats.tokens == 11
    assert rows.unknown_texts == ("国", "unsayable")
    assert data_line(rows).endswith("11 tokens (3 unknown)")
    wanted = "27.3% of the tokens of data are unknown to the tokenizer: '国', 'unsayable'."
    assert unknown_line({"data": rows, "eval": None}).startswith(wanted)
    again = rows_of(tmp_path, tokenizer, "the good 国 and 国", "the unsayable", cache_dir=tmp_path / "cache")
    assert (again.unknown_texts, again.stats) == (rows.unknown_texts, rows.stats)


def test_few_unknown_tokens_are_counted_without_a_warning(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path / "bert", files=BERT_VOCAB))
    rows = rows_of(tmp_path, tokenizer, *["the good the good"] * 40, "the 国")
    assert rows.stats.unknown == 1 and "(1 unknown)" in data_line(rows) and unknown_line({"data": rows}) == ""


@pytest.mark.parametrize("layout", ["qwen2 from vocabulary files", "gpt2 from vocabulary files", "llama"])
def test_what_bytes_can_spell_is_known(tmp_path, layout):
    """Also where the class names <|endoftext|>, which ends every row, as its unknown token."""
    tokenizer = load_tokenizer(LAYOUTS[layout](tmp_path / "base"))
    rows = rows_of(tmp_path, tokenizer, "the 国 \U000f1d3b<|endoftext|>", task="lm")
    assert rows.stats.unknown == 0 and rows.unknown_texts == () and "unknown" not in data_line(rows)


def test_characters_that_leave_no_token(tmp_path):
    """BPE without bytes and without an unknown token drops them."""
    vocab = {character: i for i, character in enumerate("▁abc")}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = load_tokenizer(write(tmp_path / "base", backend=backend))
    rows = rows_of(tmp_path, tokenizer, "ab 国c国", "a日", task="lm")
    assert rows.stats.unknown == 3 and rows.unknown_texts == ("国", "日")


def test_conversations_and_streams(tmp_path):
    vocab = {"<unk>": 0, "the": 1, "and": 2, "user": 3, "assistant": 4, ":": 5, "</s>": 6}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = load_tokenizer(
        write(tmp_path / "base", settings={"eos_token": "</s>", "chat_template": TALK}, backend=backend)
    )
    path = tmp_path / "talk.jsonl"
    messages = [{"role": "user", "content": "the 国"}, {"role": "assistant", "content": "and 日 日"}]
    path.write_text(json.dumps({"messages": messages}))
    rows = read_examples(path, task="instruct", tokenizer=tokenizer, seq_len=64)
    assert rows.stats.unknown == 3 and set(rows.unknown_texts) >= {"国", "日"}
    stream = tmp_path / "plain.txt"
    stream.write_text("the 国\nand the\n", encoding="utf-8")
    assert read_examples(stream, task="lm", tokenizer=tokenizer, seq_len=64).unknown_texts == ("国",)
