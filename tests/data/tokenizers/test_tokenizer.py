"""Tokenizers from the files of a Hugging Face folder."""

import json

import pytest

from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import DataError

TEXTS = ["The dog is not family-friendly.", "  two  spaces ", "a\n\nb\tc", "日本語 ☃ 🤖", "", "word " * 40]


def test_word_piece_from_a_vocabulary(word_piece):
    ids = word_piece.encode("The FILMS, acting unknownword.")
    spelt = [word_piece.token(i) for i in ids]
    assert spelt == ["[CLS]", "the", "film", "##s", ",", "act", "##ing", "[UNK]", ".", "[SEP]"]
    assert word_piece.pad_id == 0
    assert word_piece.eos_id is None
    assert word_piece.decode(ids) == "the films, acting."


def test_pairs_carry_token_types_and_are_cut_longest_first(word_piece):
    rows = word_piece.encode_many([("good film", "bad movie"), ("very long word word word word", "a b")], longest=8)
    assert rows.types[0] == [0, 0, 0, 0, 1, 1, 1]
    assert rows.cut == [False, True]
    spelt = [word_piece.token(i) for i in rows.ids[1]]
    # 3 special tokens leave 5: the first text loses until the two would be as long as each other.
    assert spelt == ["[CLS]", "very", "long", "word", "[SEP]", "a", "[UNK]", "[SEP]"]


def test_cutting_keeps_the_special_tokens(word_piece, spiece):
    assert [word_piece.token(i) for i in word_piece.encode_many(["very long word"], longest=4).ids[0]] == [
        "[CLS]", "very", "long", "[SEP]",
    ]  # fmt: skip
    ids = spiece.encode_many(["The quick brown fox"], longest=3).ids[0]
    assert ids == spiece.encode("The quick brown fox")[:3]
    assert ids[0] == spiece.bos_id == 1


def test_no_room_for_text(word_piece):
    with pytest.raises(DataError, match="seq_len 2 leaves no room for text beside 2 special tokens"):
        word_piece.encode_many(["good"], longest=2)


def test_lowercase_and_accents_follow_the_configuration(tmp_path):
    (tmp_path / "vocab.txt").write_text(
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nGood\ngood\ncafe\ncafé\n", encoding="utf-8"
    )
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "strip_accents": false}')
    kept = load_tokenizer(tmp_path)
    assert kept.encode("Good good café", special=False) == [5, 6, 8]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load_tokenizer(tmp_path).encode("Good good café", special=False) == [6, 6, 7]


def test_vocab_and_merges_give_what_tokenizer_json_gives(tmp_path, bpe_folder, bpe):
    model = json.loads((bpe_folder / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')
    files = load_tokenizer(tmp_path)
    assert [files.encode(text) for text in TEXTS] == [bpe.encode(text) for text in TEXTS]
    assert files.eos_id == bpe.eos_id
    assert files.encode("dog<|im_end|>")[-1] == bpe.eos_id


def test_a_spaced_tokenizer_continues_without_a_space_of_its_own(spiece):
    """Joined pieces are the ids of the joined text: SentencePiece's own space stands only where a text begins."""
    begun = spiece.encode("What is the capital of France?\n")
    assert begun[0] == spiece.bos_id
    [continued] = spiece.encode_continuations(["Paris."], ["What is the capital of France?\n"])
    assert begun + continued == spiece.encode("What is the capital of France?\nParis.")
    assert spiece.encode("Paris.", special=False) != continued
    assert spiece.decode(begun + continued) == "What is the capital of France?\nParis."


def test_special_tokens_from_config_json_alone(tmp_path, bpe_folder):
    (tmp_path / "tokenizer.json").write_bytes((bpe_folder / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text('{"eos_token_id": [2, 0], "pad_token_id": 0, "bos_token_id": null}')
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (2, 0, None)
    assert tokenizer.specials["eos_token"] == "<|im_end|>"


def test_stored_truncation_and_padding_are_switched_off(tmp_path, bpe_folder, bpe):
    stored = json.loads((bpe_folder / "tokenizer.json").read_text())
    stored["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "direction": "Right", "stride": 0}
    stored["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    (tmp_path / "tokenizer_config.json").write_bytes((bpe_folder / "tokenizer_config.json").read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(TEXTS[0]) == bpe.encode(TEXTS[0])
    assert tokenizer.digest == bpe.digest


def test_the_digest_follows_the_content_only(tmp_path, bpe_folder, bpe, chat):
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in bpe_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert load_tokenizer(copy).digest == bpe.digest
    assert chat.digest != bpe.digest


def test_a_folder_without_a_tokenizer(tmp_path):
    assert load_tokenizer(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer.json": "{"}, "tokenizer.json: the tokenizer file is damaged"),
        ({"tokenizer.json": '{"version": "1.0"}'}, "tokenizer.json: the tokenizer file is damaged"),
        ({"tokenizer.json": b"\xff\xfe{"}, "tokenizer.json: is not UTF-8 text"),
        ({"tokenizer.model": b"\n\x01"}, "tokenizer.model: is not a SentencePiece model"),
        ({"vocab.txt": "just\nwords\n"}, r"vocab.txt: the vocabulary lacks \[UNK\], \[SEP\], \[CLS\]"),
        ({"vocab.json": "{}", "merges.txt": "a b c\n"}, "merges.txt, line 1: expected two tokens"),
        ({"vocab.json": "{}", "merges.txt": "a b\n"}, "vocab.json and merges.txt do not fit together"),
        ({"vocab.json": "[]", "merges.txt": "a b\n"}, "vocab.json: expected a JSON object"),
        ({"vocab.txt": "[CLS]", "tokenizer_config.json": "{"}, "tokenizer_config.json, line 1: not JSON"),
        ({"vocab.txt": "x", "tokenizer_config.json": '{"chat_template": 3}'}, "the vocabulary lacks"),
        (
            {"tokenizer_config.json": '{"eos_token": "\\ud83d"}'},
            "tokenizer_config.json: holds half of a surrogate pair",
        ),
        ({"tokenizer_config.json": '{"a":' + "[" * 100_000}, "tokenizer_config.json: is nested too deeply"),
    ],
)
def test_damaged_files(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


def test_files_that_each_read_but_do_not_work_together(tmp_path, bpe_folder):
    """The library panics on a post-processor with a token that it does not list."""
    content = json.loads((bpe_folder / "tokenizer.json").read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[GONE]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [0], "tokens": ["[CLS]"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"tokenizer.* (do not work together|file is damaged)"):
        load_tokenizer(tmp_path)


def test_progress_is_reported_by_the_thousand(word_piece):
    seen = []
    word_piece.encode_many(["good film"] * 2500, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1024, 2500), (2048, 2500), (2500, 2500)]
