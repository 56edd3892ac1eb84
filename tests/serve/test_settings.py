"""What is checked of a server's settings before anything is loaded."""

import pytest

from petrun.errors import ConfigError, SetupError
from petrun.serve import settings
from petrun.serve.settings import ServerSettings, read_api_key, require_packages


def test_numbers_out_of_range_are_named_together():
    ServerSettings().check()
    with pytest.raises(ConfigError, match="--queue 0: must be at least 1") as caught:
        ServerSettings(queue=0, batch_size=0, max_tokens=0, grace_seconds=-1).check()
    assert all(flag in caught.value.message for flag in ("--batch-size 0", "--max-tokens 0", "--grace -1"))


def test_the_key_comes_from_the_environment_or_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PETRUN_TEST_KEY", " s3cret\n")
    (tmp_path / "key").write_text("of-a-file\n")
    assert read_api_key(ServerSettings(key_env="PETRUN_TEST_KEY")) == "s3cret"
    assert read_api_key(ServerSettings(key_file=str(tmp_path / "key"))) == "of-a-file"
    assert read_api_key(ServerSettings()) is None
    assert read_api_key(ServerSettings(host="0.0.0.0", without_key=True)) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"key_env": "A", "key_file": "b"}, "give one of them"),
        ({"key_env": "PETRUN_NO_SUCH_KEY"}, "is not set"),
        ({"key_file": "no/such/file"}, "cannot be read"),
        ({"host": "0.0.0.0"}, "other machines reach this address"),
        ({"key_env": "A", "without_key": True}, "--without-api-key: has no effect beside a key"),
    ],
)
def test_a_key_that_cannot_be_used(given, message):
    with pytest.raises(ConfigError, match=message):
        read_api_key(ServerSettings(**given))


def test_a_key_is_one_word_of_ascii(tmp_path):
    for text, message in (("", "is empty"), ("two words", "one word of ASCII"), ("schlüssel", "one word of ASCII")):
        (tmp_path / "key").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            read_api_key(ServerSettings(key_file=str(tmp_path / "key")))


def test_packages_that_are_missing(monkeypatch):
    require_packages()
    monkeypatch.setattr(settings, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(SetupError, match="needs the package uvicorn"):
        require_packages()
