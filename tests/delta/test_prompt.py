"""Prompt tuning: where its vectors start from. What it computes is held against numpy in tests/graph/test_virtual_tokens.py."""

import numpy as np
import pytest

from petrun.delta import METHODS
from petrun.delta.prompt import PromptConfig, initial, prepare
from petrun.errors import ConfigError, TargetError

TABLE = np.random.default_rng(0).normal(0.5, 2.0, (40, 6)).astype(np.float32)


def test_random_vectors_have_the_tables_mean_and_spread():
    config = PromptConfig(tokens=500)
    got = initial(TABLE, config, 3)
    assert got.shape == (500, 6) and got.dtype == np.float32
    np.testing.assert_allclose(got.mean(0), TABLE.mean(0), atol=0.4)
    assert abs(got.std() / TABLE.std() - 1) < 0.1
    np.testing.assert_array_equal(got, initial(TABLE, config, 3))
    assert np.abs(got - initial(TABLE, config, 4)).max() > 0.1


@pytest.mark.parametrize(("tokens", "chosen"), [(5, [7, 2, 9, 7, 2]), (2, [7, 2]), (3, [7, 2, 9])])
def test_a_text_gives_its_embeddings_repeated_or_cut(tokens, chosen):
    config = prepare(PromptConfig(tokens=tokens, init_text="is it good"), lambda text: [len(text) - 3, 2, 9])
    assert config.init_ids == (7, 2, 9)
    np.testing.assert_array_equal(initial(TABLE, config, 0), TABLE[chosen])
    # Ids that are there are kept: a delta's own settings need no tokenizer.
    assert prepare(config, None) is config


def test_bad_texts():
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        prepare(PromptConfig(init_text="a"), None)
    with pytest.raises(ConfigError, match="has no tokens"):
        prepare(PromptConfig(init_text=" "), lambda text: [])
    with pytest.raises(TargetError, match=r"40 is not in 0\.\.39"):
        initial(TABLE, PromptConfig(init_ids=(3, 40)), 0)


def test_the_record():
    method = METHODS["prompt"]
    assert method.tokens(PromptConfig(tokens=11)) == 11
    assert method.merge is None and not method.identity
