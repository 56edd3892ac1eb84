"""Values as they are typed become values of their type."""

import pytest

from petrun.config.schema import EvalConfig


@pytest.mark.parametrize("given", ["loss, bleu", ["loss", "bleu"], ("loss", "bleu")])
def test_names_of_metrics_may_stand_in_one_text(given):
    assert EvalConfig(metrics=given).metrics == ("loss", "bleu")
    assert EvalConfig(metrics="loss").metrics == ("loss",) and EvalConfig(metrics="").metrics == ()
