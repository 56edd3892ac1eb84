"""Names of the deltas of a session."""

import pytest

from petrun.errors import ConfigError
from petrun.inference.generation.multi_delta import named_path, named_paths


def test_a_delta_is_named_by_its_file_or_folder_or_by_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_paths(["runs/lora-1", "x/a.ckpt", "b=y/best.ckpt"]) == {
        "lora-1": "runs/lora-1",
        "a": "x/a.ckpt",
        "b": "y/best.ckpt",
    }
    assert named_paths({"mine": "x/a.ckpt"}) == {"mine": "x/a.ckpt"}
    (tmp_path / "a=b.ckpt").touch()
    assert named_path("a=b.ckpt") == ("a=b", "a=b.ckpt"), "a file that is there"


def test_names_that_cannot_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="would both be called best"):
        named_paths(["x/best.ckpt", "y/best.ckpt"])
    for bad in ("off=a.ckpt", "=a.ckpt", "a b=c.ckpt"):
        with pytest.raises(ConfigError, match="cannot be the name"):
            named_paths([bad])
