"""Values as they are typed become values of their type."""

import pytest
from pydantic import ValidationError

from petrun.config.schema import DataConfig, EvalConfig


@pytest.mark.parametrize("given", ["loss, bleu", ["loss", "bleu"], ("loss", "bleu")])
def test_names_of_metrics_may_stand_in_one_text(given):
    assert EvalConfig(metrics=given).metrics == ("loss", "bleu")
    assert EvalConfig(metrics="loss").metrics == ("loss",) and EvalConfig(metrics="").metrics == ()


def test_whole_numbers_are_names_of_classes():
    """As the messages about such labels say it: --set data.labels=[-1,1]."""
    assert DataConfig(labels=[-1, 1]).labels == ("-1", "1") and DataConfig(labels=7).labels == ("7",)
    with pytest.raises(ValidationError):
        DataConfig(labels=[True])
