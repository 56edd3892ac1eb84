"""The table of tokenizer classes: which class a folder asks for."""

import json

import pytest

from petrun.data.tokenizers.classes import CLASSES, GENERAL, class_name, class_of_vocabulary, find_class
from petrun.data.tokenizers.tokenizer import load_tokenizer


def name_of(named=None, model_type=None, *, byte_level_file=False):
    settings = {"tokenizer_class": named} if named else {}
    return class_name(settings, {"model_type": model_type}, byte_level_file=byte_level_file)


def test_names_and_model_types_stand_once():
    for field in ("names", "model_types", "forced_model_types"):
        every = [value for each in CLASSES for value in getattr(each, field)]
        assert len(set(every)) == len(every)


@pytest.mark.parametrize("record", CLASSES, ids=lambda record: record.names[0])
def test_a_record_is_found_by_name_and_by_model_type(record):
    for name in record.names:
        assert find_class(name_of(name)) is find_class(name_of(f"{name}Fast")) is record
    for model_type in record.model_types:
        assert find_class(name_of(model_type=model_type)) is record
    for model_type in record.forced_model_types:
        assert name_of("GPT2Tokenizer", model_type) == record.names[0]
        assert name_of("PreTrainedTokenizerFast", model_type) == GENERAL
    assert name_of(record.names[0], "mistral") == GENERAL


def test_classes_without_a_record_are_general():
    assert name_of("PreTrainedTokenizerFast", "gpt2") == GENERAL and find_class(GENERAL) is None
    assert name_of("LlamaTokenizer", byte_level_file=True) == GENERAL
    assert name_of("GPT2Tokenizer", byte_level_file=True) == "GPT2Tokenizer"
    assert name_of("XLNetTokenizer") == "XLNetTokenizer" and find_class("XLNetTokenizer") is None


def test_vocabulary_files_alone_name_a_class():
    assert (class_of_vocabulary(word_list=True), class_of_vocabulary(word_list=False)) == (
        "BertTokenizer",
        "GPT2Tokenizer",
    )


CLIP_IDS = {
    "Red  RED!": [7, 4, 4, 6, 8],
    "a\nred red!!": [7, 5, 4, 4, 8, 6, 8],
    "红 a": [7, 8, 8, 8, 5, 8],
    "": [7, 8],
    "<|endoftext|> a": [7, 8, 5, 8],
}


def test_clip_joins_letters_into_words_and_lowers_them(tmp_path):
    """Given CLIP's files: ids of transformers 5.24's CLIPTokenizer for the same files and texts."""
    vocab = {
        token: i
        for i, token in enumerate(
            ["r", "e", "d</w>", "re", "red</w>", "a</w>", "!</w>", "<|startoftext|>", "<|endoftext|>"]
        )
    }
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    tokenizer = load_tokenizer(tmp_path)
    assert [tokenizer.encode(text) for text in CLIP_IDS] == list(CLIP_IDS.values())
    assert tokenizer.pad_id == 8 and tokenizer.decode([7, 4, 6, 8]).strip() == "red !"
