"""What counts as a change between the begin of a run and its resume."""

import pytest

from petrun.config.load import load_run_config
from petrun.errors import ConfigError
from petrun.training.checkpointing.fingerprint import changes, require_same_run, settings_of

NOW = settings_of(load_run_config(None, {"model.base": ("--base", "gpt2")}, []).config)


def test_a_setting_that_an_earlier_version_did_not_have_is_no_change_at_its_default():
    before = {key: value for key, value in NOW.items() if not key.startswith("preference.")}
    assert changes(before, NOW) == {}
    assert changes(before, {**NOW, "preference.loss": "ipo"}) == {"preference.loss": 'null -> "ipo"'}


def test_a_setting_that_has_changed_is_refused_also_to_its_default():
    key = next(key for key, value in NOW.items() if key == "optim.clip")
    assert changes({**NOW, key: 7.0}, NOW) == {key: "7.0 -> 1.0"}
    with pytest.raises(ConfigError, match=r"optim\.clip: 7\.0 -> 1\.0"):
        require_same_run({**NOW, key: 7.0}, NOW, (), "runs/lora-1")
    assert require_same_run({**NOW, key: 7.0}, NOW, (key,), "runs/lora-1") == {key: "7.0 -> 1.0"}


def test_content_is_compared_whether_or_not_the_run_had_it():
    """Digests of files are no settings with a default."""
    assert changes({}, {"model.base": "a" * 64}) == {"model.base": f"null -> content {'a' * 12}"}
