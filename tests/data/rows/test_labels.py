"""Labels as files hold them -> indices and names."""

import pytest

from petrun.data.rows.labels import resolve_labels
from petrun.errors import DataError


def resolve(values, **given):
    indices, names, count = resolve_labels(values, lambda i: f"line {i + 1}", **given)
    return indices.tolist(), names, count


@pytest.mark.parametrize(
    ("values", "given", "expected"),
    [
        ([1, 0, 1], {}, ([1, 0, 1], (), 2)),
        (["1", "0", " 1 "], {}, ([1, 0, 1], (), 2)),
        ([1.0, 0.0], {}, ([1, 0], (), 2)),
        (["1.0", "0.0"], {}, ([1, 0], (), 2)),
        # Strings that are not all written as integers are: different strings, different classes.
        (["01", "1", "2"], {}, ([0, 1, 2], ("01", "1", "2"), 3)),
        (["+1", "1", "2"], {}, ([0, 1, 2], ("+1", "1", "2"), 3)),
        (["1.0", "1", "1.00"], {}, ([1, 0, 2], ("1", "1.0", "1.00"), 3)),
        (["-0", "0", "1"], {}, ([0, 1, 2], ("-0", "0", "1"), 3)),
        (["007", "008"], {}, ([0, 1], ("007", "008"), 2)),
        ([1, "01", 2], {}, ([1, 0, 2], ("01", "1", "2"), 3)),
        (["1.0", "0.0"], {"names": ("neg", "pos")}, ([1, 0], ("neg", "pos"), 2)),
        (["1.0", "2.0"], {"names": ("1.0", "2.0")}, ([0, 1], ("1.0", "2.0"), 2)),
        (["pos", "neg", "pos"], {}, ([1, 0, 1], ("neg", "pos"), 2)),
        ([True, False], {}, ([1, 0], ("false", "true"), 2)),
        # Gaps: codes, not indices. A known number of classes, or arrays, make them indices again.
        ([100, 117, 102], {}, ([0, 2, 1], ("100", "102", "117"), 3)),
        (["10", "9"], {}, ([1, 0], ("9", "10"), 2)),
        ([1, -3], {}, ([1, 0], ("-3", "1"), 2)),
        ([2, 0], {}, ([1, 0], ("0", "2"), 2)),
        ([2, 0], {"num_labels": 3}, ([2, 0], (), 3)),
        ([2, 0], {"indices_only": True}, ([2, 0], (), 3)),
        ([1, 1], {"num_labels": 2}, ([1, 1], (), 2)),
        ([1, 1], {}, ([0, 0], ("1",), 1)),
        # Given names: by name where every value is one, else indices into them.
        (["neg", "pos"], {"names": ("pos", "neg")}, ([1, 0], ("pos", "neg"), 2)),
        ([1, 0], {"names": ("pos", "neg")}, ([1, 0], ("pos", "neg"), 2)),
        (["1", "0"], {"names": ("pos", "neg")}, ([1, 0], ("pos", "neg"), 2)),
        ([102, 100], {"names": ("100", "102")}, ([1, 0], ("100", "102"), 2)),
        ([-1, 1], {"names": ("-1", "1")}, ([0, 1], ("-1", "1"), 2)),
        (["1", "3+"], {"names": ("1", "3+")}, ([0, 1], ("1", "3+"), 2)),
        (["b"], {"names": ("a", "b", "c")}, ([1], ("a", "b", "c"), 3)),
        (["x"], {"num_labels": 3}, ([0], ("x",), 3)),
    ],
)
def test_labels(values, given, expected):
    assert resolve(values, **given) == expected


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        ([0, 3], {"num_labels": 3}, "line 2: the label 3 is out of range: there are 3 classes, 0 to 2"),
        (
            [0, 2],
            {"names": ("neg", "pos")},
            "line 2: the label 2 is out of range: there are 2 classes, 0 to 1: neg, pos",
        ),
        ([100, 101], {"names": ("100", "102")}, "line 2: unknown label '101'"),
        (["01", "2"], {"names": ("1", "2")}, "line 1: unknown label '01'"),
        ([5, 6], {"names": ("100", "102")}, "line 1: unknown label '5'"),
        (["neg", "posi"], {"names": ("neg", "pos")}, "line 2: unknown label 'posi'"),
        (["a", "b"], {"names": ("neg", "pos")}, "line 1: unknown label 'a'"),
        ([0, -1], {}, "line 2: the label -1 is negative"),
        ([0, -1], {"num_labels": 2}, "line 2: the label -1 is negative"),
        ([1, "pos"], {}, "mixed labels: line 1 has the integer 1, line 2 has 'pos'"),
        (["label", "1", "0"], {}, "mixed labels: line 2 has the integer 1, line 1 has 'label'"),
        (["0.5", "0.25"], {}, "line 1: the label 0.5 is not an integer"),
        ([float("nan")], {}, "line 1: the label is nan"),
        (["nan", "1"], {}, "mixed labels"),
        ([float("inf")], {}, "line 1: the label is inf"),
        (["", "a"], {}, "line 1: the label is missing"),
        ([{"a": 1}], {}, "line 1: the label is dict"),
        (list(range(0, 900, 3)), {}, "different integers up to 897"),
        ([0, 10**8], {"indices_only": True}, "different integers up to 100000000"),
    ],
)
def test_wrong_labels(values, given, message):
    with pytest.raises(DataError) as caught:
        resolve(values, **given)
    assert message in caught.value.message


def test_an_unknown_label_names_the_near_ones():
    with pytest.raises(DataError) as caught:
        resolve(["spots"], names=("news", "sports", "tech"))
    assert "Did you mean sports" in caught.value.hint
    assert "3 classes: news, sports, tech" in caught.value.hint
