"""Texts of many rows in one array of bytes."""

import numpy as np

from petrun.data.examples.texts import Texts


def test_texts_come_back_as_they_were():
    given = ["yes", None, "", "Grüße ☃", "half \ud83d"]
    texts = Texts.of(given)
    assert list(texts) == given and texts == tuple(given) and texts[-2] == "Grüße ☃" and texts[:2] == ("yes", None)
    assert texts.content.dtype == np.uint8 and texts.sizes.tolist() == [3, -1, 0, 11, 8]
    assert texts != given[:-1] and texts != [*given[:-1], "other"]
    assert not Texts.of([]) and Texts.of([]) == ()
