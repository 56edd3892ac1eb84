"""Text as it comes: whole characters, and nothing of a stop string."""

import numpy as np
import pytest

from petrun.evaluate.text import TextStream
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
