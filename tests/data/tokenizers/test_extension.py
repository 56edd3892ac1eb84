"""Appended pieces: old ids stay, ASCII text has the ids that it had, and the tokenizers library itself takes the new pieces."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from petrun.data.tokenizers.extension import cut, extend_tokenizer
from petrun.errors import DataError

ENGLISH = ["the cat sat on the mat", "a cat and a dog", "the end of the day", "what a day it was, and what a cat"] * 4
CHINESE = ["今天天气很好", "我们今天去公园", "天气很好我们去公园", "明天天气不好"] * 4


def byte_level(texts, size, specials=()):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    made.add_special_tokens(list(specials))
    return made


def word_piece(texts, size, specials=()):
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Whitespace()
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False)
    )
    made.add_special_tokens(list(specials))
    return made


def unigram(texts, size, specials=()):
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=size, unk_token="<unk>", special_tokens=["<unk>", *specials], show_progress=False
        ),
    )
    return made


def content(tokenizer):
    return json.loads(tokenizer.to_str())


@pytest.mark.parametrize(("make", "sizes"), [(byte_level, (300, 330)), (word_piece, (60, 60)), (unigram, (40, 60))])
def test_old_ids_stay_and_new_text_takes_fewer_tokens(make, sizes):
    base = make(ENGLISH, sizes[0], ["<|end|>"])
    made = extend_tokenizer(content(base), content(make(CHINESE, sizes[1])))
    new = Tokenizer.from_str(json.dumps(made.content))
    old_ids = base.get_vocab()
    assert {piece: i for piece, i in new.get_vocab().items() if piece in old_ids} == old_ids
    first = max(old_ids.values()) + 1
    assert [piece.id for piece in made.pieces] == list(range(first, first + len(made.pieces)))
    assert all(new.token_to_id(piece.text) == piece.id for piece in made.pieces)
    for text in (*ENGLISH[:4], "unseen words, 42!", "the<|end|>cat"):
        assert new.encode(text).ids == base.encode(text).ids
    before, after = (sum(len(t.encode(text).ids) for text in CHINESE) for t in (base, new))
    used = {i for text in CHINESE for i in new.encode(text).ids}
    assert used & {piece.id for piece in made.pieces}
    if make is byte_level:
        # The tokens that the base cut a piece into spell the piece.
        assert after < 0.6 * before and all(
            base.decode(piece.old_ids) == new.decode([piece.id]) for piece in made.pieces
        )
        assert [new.decode(new.encode(text).ids) for text in CHINESE[:4]] == CHINESE[:4]
    else:
        # The base did not know a character of it.
        assert not any(piece.old_ids for piece in made.pieces)


def test_merges_as_text_stay_text():
    base = content(byte_level(ENGLISH, 300))
    base["model"]["merges"] = [" ".join(merge) for merge in base["model"]["merges"]]
    made = extend_tokenizer(base, content(byte_level(CHINESE, 330)))
    assert all(isinstance(merge, str) for merge in made.content["model"]["merges"])
    assert Tokenizer.from_str(json.dumps(made.content)).encode("今天").ids


def test_a_base_that_merges_other_bytes_still_gets_pieces():
    """Given a base whose merges cut the new script's bytes in another way, pieces are made of the tokens that it leaves."""
    base = content(byte_level([*ENGLISH, "忘记公元今后天上"] * 2, 290))
    made = extend_tokenizer(base, content(byte_level(CHINESE, 330)))
    new = Tokenizer.from_str(json.dumps(made.content))
    # A piece that ends within a character has no text of its own.
    texts = [text for piece in made.pieces if "\ufffd" not in (text := new.decode([piece.id]))]
    reached = [text for text in texts if len(new.encode(text).ids) == 1]
    assert len(texts) > 10 and len(reached) > 0.8 * len(texts)


def test_bpe_cuts_as_the_library():
    tokenizer = byte_level(ENGLISH, 320)
    ranks = {tuple(merge): rank for rank, merge in enumerate(content(tokenizer)["model"]["merges"])}
    for word in ("the", "cat", "what", "xyz", "dayday"):
        assert cut(word, ranks) == tokenizer.encode(word).tokens


def test_other_kinds_and_nothing_new_are_refused():
    with pytest.raises(DataError, match="the base's tokenizer is BPE, and the other one Unigram"):
        extend_tokenizer(content(byte_level(ENGLISH, 300)), content(unigram(CHINESE, 60)))
    with pytest.raises(DataError, match="no piece is new"):
        extend_tokenizer(content(byte_level(ENGLISH, 300)), content(byte_level(ENGLISH, 320)))
    base = unigram(ENGLISH, 40)
    base.add_special_tokens(["<|end|>"])
    with pytest.raises(DataError, match="added tokens stand behind its Unigram pieces"):
        extend_tokenizer(content(base), content(unigram(CHINESE, 60)))
