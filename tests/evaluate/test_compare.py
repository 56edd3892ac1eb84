"""The table base / delta, character by character."""

import math

from petrun.evaluate.compare import side_by_side, spell


def test_table_is_aligned_and_knows_which_way_is_better():
    table = side_by_side(
        {"accuracy": 0.5092, "loss": 0.6931, "matthews": 0.0, "bleu": 12.5},
        {"accuracy": 0.838, "loss": 0.8, "matthews": 0.0, "bleu": 68.2},
    )
    assert table.splitlines() == [
        "metric       base    delta  change",
        "accuracy   0.5092   0.8380  +0.3288 better",
        "loss       0.6931   0.8000  +0.1069 worse",
        "matthews   0.0000   0.0000  same",
        "bleu      12.5000  68.2000  +55.7000 better",
    ]


def test_columns_of_an_absent_side_are_left_out():
    assert side_by_side(None, {"loss": 0.25}).splitlines() == ["metric   delta", "loss    0.2500"]
    assert side_by_side({"loss": 0.25}, None).splitlines() == ["metric    base", "loss    0.2500"]


def test_metrics_that_one_side_lacks_and_numbers_that_are_none():
    lines = side_by_side({"loss": 1.0, "perplexity": math.inf}, {"perplexity": 2.0, "rows": 7.0}).splitlines()
    assert [line.split() for line in lines] == [
        ["metric", "base", "delta", "change"],
        ["loss", "1.0000", "-", "-"],
        ["perplexity", "inf", "2.0000", "-"],
        ["rows", "-", "7.0000", "-"],
    ]


def test_chosen_names_and_their_order():
    lines = side_by_side({"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 1.0}, ["b", "a"]).splitlines()
    assert [line.split()[0] for line in lines] == ["metric", "b", "a"]
    # A name that petrun does not know has no direction.
    assert lines[1].split() == ["b", "2.0000", "1.0000", "-1.0000"]


def test_small_and_large_figures_keep_their_digits():
    assert spell(3.21e-5) == "3.210e-05"
    assert spell(1234567.0) == "1.235e+06"
    assert spell(0.0) == "0.0000"
    assert spell(-0.5) == "-0.5000"
    assert spell(math.nan) == "nan"
    assert spell(None) == "-"
