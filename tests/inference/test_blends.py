"""Blends: how they are written, and sums that have no form."""

import numpy as np
import pytest

from petrun.delta.forms import AdapterTensors, LowRankUpdate
from petrun.errors import ConfigError
from petrun.inference.blends import blended, parse_blend, spell_blend


@pytest.mark.parametrize(
    ("text", "blend", "spelled"),
    [
        ("off", {}, "off"),
        ("ink", {"ink": 1.0}, "ink"),
        ("ink:1.0", {"ink": 1.0}, "ink"),
        ("ink:0.8, b:-.5", {"ink": 0.8, "b": -0.5}, "ink:0.8,b:-0.5"),
        ("a:1", {"a:1": 1.0}, "a:1"),
    ],
)
def test_texts(text, blend, spelled):
    """A name that holds a colon stands for itself."""
    assert parse_blend(text, ("ink", "b", "a:1"), "--use") == blend and spell_blend(blend) == spelled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inc", "--use inc: no delta is called 'inc'. Did you mean ink"),
        ("ink:much", "--use ink:much: 'much' is no weight"),
        ("ink:nan", "'nan' is no weight"),
        ("ink,ink:0.5", "ink stands there twice"),
        ("ink,off", "no delta is called 'off'"),
    ],
)
def test_refused_texts(text, message):
    with pytest.raises(ConfigError) as raised:
        parse_blend(text, ("ink", "b"), "--use")
    assert message in str(raised.value)


def test_products_add_up_and_scales_do_not():
    rng = np.random.default_rng(0)
    a, b = (AdapterTensors(products={"x": LowRankUpdate(a=rng.random((r, 4)), b=rng.random((3, r)))}) for r in (2, 1))
    found = blended({"a": 0.5, "b": -2.0}, {"a": a, "b": b}).products["x"]
    wanted = 0.5 * (a.products["x"].b @ a.products["x"].a) - 2.0 * (b.products["x"].b @ b.products["x"].a)
    np.testing.assert_allclose(found.b @ found.a, wanted, rtol=1e-6)
    with pytest.raises(ConfigError, match="b cannot be weighed or blended"):
        blended({"a": 1.0, "b": 1.0}, {"a": a, "b": AdapterTensors(after={"x": np.ones(3)})})
