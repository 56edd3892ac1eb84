"""Options without effect are named with the flags that were typed; those at their defaults are not."""

import pytest

from petrun.config.commands.data import ShotsSettings
from petrun.config.effect import require_effect, require_no_run_keys, require_read, require_text
from petrun.config.load import load_run_config
from petrun.errors import ConfigError


def test_fields_with_another_value_than_their_default_are_named():
    require_effect(ShotsSettings(files=("a",)), ("seq_len", "seed"), "here")
    with pytest.raises(
        ConfigError, match=r"^--seq-len: has no effect without --base\n--seed: has no effect without --base\n"
    ):
        require_effect(ShotsSettings(files=("a",), seq_len=9, seed=1), ("seq_len", "seed", "shots"), "without --base")


def test_settings_of_a_run_are_named():
    require_no_run_keys(ShotsSettings(files=("a",)), "here")
    given = ShotsSettings(files=("a",), flags={"device": ("--device", "cpu")}, sets=("model.dtype=float16",))
    with pytest.raises(
        ConfigError, match=r"^--device: has no effect here\n--set model\.dtype=float16: has no effect here\n"
    ):
        require_no_run_keys(given, "here")


def test_a_length_of_text_is_named_where_none_is_written():
    flags = {"eval.max_new_tokens": ("--max-new-tokens", 5)}
    require_text(flags, True, "why")
    require_text({}, False, "why")
    with pytest.raises(ConfigError, match="--max-new-tokens: has no effect: why"):
        require_text(flags, False, "why")


def test_keys_that_are_not_read_are_named():
    resolved = load_run_config(
        None, {"device": ("--device", "cpu")}, ["model.dtype=float32", "optim.lr=0.1", "data.pack=false"]
    )
    require_read(resolved, ("model.*", "device", "optim.lr", "data.pack"))
    with pytest.raises(
        ConfigError, match=r"^--set optim\.lr: has no effect on this command\n--set data\.pack: has"
    ) as error:
        require_read(resolved, ("model.*", "device"))
    assert error.value.hint == "It reads model.*, device."
