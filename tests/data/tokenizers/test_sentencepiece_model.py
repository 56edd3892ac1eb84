"""A SentencePiece model gives the ids and the text that the sentencepiece package gives; test_layouts.py compares with AutoTokenizer."""

import io

import pytest
import sentencepiece

from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import DataError
from tests.data.tokenizers.layouts import TEXTS, piece_model, write

LINES = [
    "the test runs the best of all tests and the rest of them", "running faster than the others, she sells sea shells",
    "日本語の文章は日本語で書く 日本語の日", "café and naïve façade, 12 times 34 is 408", "(a + b) * (a - b) = a2 - b2; x = [1, 2]",
] * 4  # fmt: skip
COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


def trained(folder, **settings):
    """A folder with a model that SentencePiece trained, and SentencePiece's own processor of it."""
    content = io.BytesIO()
    defaults = {"vocab_size": 360, "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=content, **{**defaults, **settings}
    )
    return (
        write(folder, settings={}, files={"tokenizer.model": content.getvalue()}),
        sentencepiece.SentencePieceProcessor(model_proto=content.getvalue()),
    )


def plain(texts):
    """Without control tokens, which a tokenizer finds in text and SentencePiece does not."""
    return [text for text in texts if not any(token in text for token in ("<s>", "</s>", "<unk>"))]


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "bpe"},
        {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True},
        {"model_type": "bpe", "user_defined_symbols": ["<think>", "est"], "normalization_rule_name": "identity"},
        {"model_type": "bpe", "byte_fallback": False, "allow_whitespace_only_pieces": True},
        {"model_type": "unigram", "byte_fallback": True},
    ],
    ids=["bpe", "bpe as llama", "bpe with whole pieces", "bpe without bytes", "unigram"],
)  # fmt: skip
def test_ids_and_text_equal_sentencepiece(tmp_path, settings):
    folder, peer = trained(tmp_path / "base", **settings)
    own = load_tokenizer(folder)
    for text in plain([*LINES, *TEXTS, "restest  the\n\nbest<think>"]):
        ids = own.encode(text, special=False)
        assert ids == peer.encode(text), text
        if settings.get("byte_fallback", True):
            assert own.decode(ids) == peer.decode(ids), text
    assert (own.bos_id, own.eos_id, own.unknown_id) == (peer.bos_id(), peer.eos_id(), peer.unk_id())


def test_chatglm(tmp_path):
    """[gMASK] and sop before every text; a pair ends with </s>; no text gives a command unless the folder declares it."""
    content = piece_model()["tokenizer.model"]
    peer = sentencepiece.SentencePieceProcessor(model_proto=content)
    settings = {"tokenizer_class": "ChatGLMTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_chatglm.X", None]}}
    folder = write(
        tmp_path / "base", settings=settings, model={"model_type": "chatglm"}, files={"tokenizer.model": content}
    )
    own, behind = load_tokenizer(folder), len(peer)
    assert [own.token_id(command) for command in COMMANDS] == list(range(behind, behind + 9))
    for text in [*plain(TEXTS), "sop<|user|>[gMASK]"]:
        assert own.encode(text) == [behind + 1, behind + 3, *peer.encode(text)], text
    first, second = peer.encode("the"), peer.encode("good")
    assert own.encode_many([("the", "good")]).ids == [[behind + 1, behind + 3, *first, *second, peer.eos_id()]]
    assert (own.bos_id, own.eos_id, own.pad_id) == (None, peer.eos_id(), 0)
    declared = {
        "added_tokens_decoder": {str(behind + 6): {"content": "<|user|>", "special": False, "normalized": False}}
    }
    own = load_tokenizer(write(tmp_path / "new", settings={**settings, **declared}, files={"tokenizer.model": content}))
    assert own.encode("<|user|>\n the", special=False) == [behind + 6, *peer.encode("\n the")]


@pytest.mark.parametrize(
    ("settings", "files", "message"),
    [
        ({}, {"tokenizer.model": b"IQ== 0\nIg== 1\n"}, "tokenizer.model: is not a SentencePiece model"),
        ({}, {"tokenizer.model": b""}, "tokenizer.model: is not a SentencePiece model"),
        ({}, piece_model(algorithm=4), "is a character model; supported: BPE, Unigram"),
        ({"tokenizer_class": "LlamaTokenizer"}, piece_model(algorithm=1), "is a Unigram model, and LlamaTokenizer reads BPE"),
        ({"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": "x"}}, piece_model(), "of the folder's own code"),
    ],
)  # fmt: skip
def test_refused_models(tmp_path, settings, files, message):
    with pytest.raises(DataError, match=message):
        load_tokenizer(write(tmp_path / "base", settings=settings, files=files))
