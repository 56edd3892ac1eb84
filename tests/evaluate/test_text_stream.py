"""Text as it comes: whole characters, and nothing of a stop string."""

import numpy as np
import pytest

from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.evaluate.text_stream import TextStream
from tests.data.tokenizers.layouts import spiece_file, write
from tests.tiny import letters, words

BACKEND = letters()
TEXT = "Grüße 🙂👍🏽 — 日本, end\ufffd."


def decode(ids):
    return BACKEND.decode([int(i) for i in ids])


def ids_of(text):
    return BACKEND.encode(text).ids


def pieces(tokens, stop=(), decode=decode):
    stream = TextStream(decode, stop)
    found = []
    for token in tokens:
        found.append(stream.push(token))
        if stream.stopped:
            break
    return [*found, stream.end()], stream


def test_characters_of_several_bytes_come_whole():
    """One token a byte: no piece holds the mark of half a character that the text itself does not hold."""
    found, stream = pieces(ids_of(TEXT))
    assert "".join(found) == stream.text == TEXT
    assert [piece for piece in found if "\ufffd" in piece] == ["\ufffd."]
    assert "🙂" in found and "日" in found and found.count("") > 10


def test_an_answer_that_ends_inside_a_character_still_ends():
    tokens = ids_of("ab🙂")[:-2]
    found, _ = pieces(tokens)
    assert found[:2] == ["a", "b"] and "".join(found) == decode(tokens)


@pytest.mark.parametrize(
    ("stop", "wanted"), [(["end"], "one, two, "), (["two", "end"], "one, "), (["three"], None), (["one"], "")]
)
def test_nothing_of_a_stop_string_is_shown(stop, wanted):
    text = "one, two, end. And en"
    found, stream = pieces(ids_of(text), stop)
    assert "".join(found) == (text if wanted is None else wanted) == stream.text
    assert stream.stopped == (wanted is not None)
    if wanted is None:
        # What began like one and is none comes in the end.
        assert pieces(ids_of("at thr"), stop)[0][-1] == "thr"


def test_random_bytes_and_stops_give_what_the_whole_text_gives():
    """Against decoding everything and cutting at the first stop string."""
    rng = np.random.default_rng(0)
    alphabet = [*ids_of("ab\n"), *ids_of("é🙂")]
    for _ in range(200):
        tokens = rng.choice(alphabet, 30).tolist()
        stop = ["ab", "\nb", "bbb"]
        whole = decode(tokens)
        cut = min((whole.find(s) for s in stop if s in whole), default=len(whole))
        assert "".join(pieces(tokens, stop)[0]) == whole[:cut]


def test_a_decoder_that_takes_back_what_it_wrote_loses_nothing_before():
    """Of words with spaces between: a text only ever grows."""
    backend = words()
    found, stream = pieces([5, 6, 7], decode=lambda ids: backend.decode(list(ids)))
    assert "".join(found) == stream.text == "bad film good"


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    return load_tokenizer(write(tmp_path_factory.mktemp("spiece"), backend=spiece_file()))


def spelt(tokenizer, text):
    return [tokenizer.token_id(piece) for piece in text.split()]


@pytest.mark.parametrize(
    "text",
    [
        "▁and <0x0A> <0xE4> ▁the ▁the ▁and",
        "▁and <0x0A> <0x0A> <0xE4> ▁the <0x0A> ▁and",
        "▁and <0xE6> <0x97> <0xA5> <0xE4> ▁the",
        "▁and <0xE6> <0x97> <0xA5> ▁the <0x0A>",
        "<0xFF> ▁and <0xFF> <0x0A>",
    ],
)
def test_bytes_that_are_no_character_silence_nothing(spiece, text):
    tokens = spelt(spiece, text)
    found, stream = pieces(tokens, decode=spiece.decode)
    assert "".join(found) == stream.text == spiece.decode(tokens)


def test_random_byte_pieces_and_stops_give_what_the_whole_text_gives(spiece):
    rng = np.random.default_rng(0)
    alphabet = spelt(spiece, "▁and ▁the a . <0x0A> <0x0A> <0xE4> <0xE6> <0x97> <0xA5>")
    for _ in range(200):
        tokens = rng.choice(alphabet, 24).tolist()
        found, stream = pieces(tokens, decode=spiece.decode)
        assert "".join(found) == stream.text == spiece.decode(tokens)
        found, stream = pieces(tokens, ["a.", "the\n"], spiece.decode)
        assert "".join(found) == stream.text
        if stream.stopped:
            assert not any(stop in stream.text for stop in ("a.", "the\n"))
        else:
            assert stream.text == spiece.decode(tokens)


def test_a_byte_piece_can_end_a_stop_string(spiece):
    """A line end stops at once, though its bytes might still turn out to be no character."""
    found, stream = pieces(spelt(spiece, "▁and <0x0A> ▁the"), ["\n"], spiece.decode)
    assert stream.stopped and "".join(found) == "and" and len(found) == 3


def test_a_decoder_that_changes_what_it_wrote_is_followed_from_there():
    """Of any other function: what is given out can not be taken back, but nothing that follows is lost."""
    texts = ["", "do", "do n", "do n't", "don't stop", "don't stop now", "don't"]
    found, stream = pieces(list(range(5)), decode=lambda ids: texts[len(ids)])
    assert found == ["do", " n", "'t", "n't stop", " now", ""]
    assert stream.text == "don't stop now"
    shorter = TextStream(lambda ids: texts[2] if len(ids) == 1 else texts[1])
    assert (shorter.push(0), shorter.push(0), shorter.end(), shorter.text) == ("do n", "", "", "do")


def test_a_stop_string_is_found_in_text_that_the_decoder_changed():
    texts = ["", "abX", "abY"]
    found, stream = pieces([0, 0], ["bY"], lambda ids: texts[len(ids)])
    assert stream.stopped and stream.text == "a" and found == ["abX", "", ""]
