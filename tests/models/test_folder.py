"""The files beside the weights."""

import pytest

from petrun.errors import ModelError
from petrun.models.folder import config_path, eos_ids, label_names, read_json, weights_path


def test_read_json(tmp_path):
    file = tmp_path / "config.json"
    for content, message in [
        (b'{"a": 1,\n "b" 2}', "line 2, column 6: not JSON"),
        (b"[1]", "must hold a JSON object, holds list"),
        (b"", "is empty"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "not UTF-8 text (byte 7)"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            read_json(file)
        assert message in caught.value.message
        assert caught.value.message.startswith(str(file))
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file) == {"a": 1}
    with pytest.raises(ModelError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("mark", "what"), [("adapter_config.json", "a peft adapter"), ("run.yaml", "the delta of a run")]
)
def test_a_delta_instead_of_a_base(tmp_path, mark, what):
    (tmp_path / mark).write_text("{}")
    (tmp_path / "lora.ckpt").write_bytes(b"x")
    for base in (tmp_path, tmp_path / "lora.ckpt"):
        with pytest.raises(ModelError, match=f"is {what}, not a base") as caught:
            config_path(base, None)
        assert "--delta" in caught.value.hint


def test_config_path(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="model's shape is not known") as caught:
        config_path(tmp_path, None)
    assert "model.config=PATH" in caught.value.hint
    (tmp_path / "config.json").write_text("{}")
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("{}")
    assert config_path(tmp_path, None) == config_path(tmp_path / "model.safetensors", None) == tmp_path / "config.json"
    assert config_path(tmp_path, elsewhere) == config_path(None, elsewhere / "config.json") == elsewhere / "config.json"
    for base, config, message in [
        (None, None, "no base is given"),
        (tmp_path / "nowhere", None, "nowhere: no such file or folder"),
        (tmp_path, tmp_path / "nothing.json", "nothing.json: no such file"),
    ]:
        with pytest.raises(ModelError, match=message):
            config_path(base, config)


def test_weights_path(tmp_path):
    assert weights_path(tmp_path) == tmp_path
    (tmp_path / "a.ckpt").touch()
    assert weights_path(tmp_path) == tmp_path / "a.ckpt"
    (tmp_path / "b.ckpt").touch()
    with pytest.raises(
        ModelError, match=r"holds several checkpoints, and their names do not say which is the newest: a\.ckpt, b\.ckpt"
    ):
        weights_path(tmp_path)
    steps = tmp_path / "steps"
    (steps / "rank_0").mkdir(parents=True)
    for name in ("m-9_1.ckpt", "m-10_1.ckpt"):
        (steps / name).touch()
        (steps / "rank_0" / name).touch()
    assert weights_path(steps) == steps / "m-10_1.ckpt"
    for name in ("m-9_1.ckpt", "m-10_1.ckpt"):
        (steps / name).unlink()
    with pytest.raises(ModelError, match="holds the files of a job's ranks") as caught:
        weights_path(steps)
    assert "--base-strategy" in caught.value.hint
    (tmp_path / "model.safetensors").touch()
    assert weights_path(tmp_path) == tmp_path
    with pytest.raises(ModelError, match="no such file"):
        weights_path(tmp_path / "nowhere")


def test_label_names():
    raw = {"id2label": {"1": "yes", "0": "no", 2: "perhaps"}}
    assert label_names(raw, 3) == ("no", "yes", "perhaps")
    assert label_names(raw, 2) == label_names({}, 2) == label_names({"id2label": None}, 2) == ()


def test_eos_ids(tmp_path):
    assert eos_ids({"eos_token_id": 5}, None) == (5,)
    assert eos_ids({"eos_token_id": [5, 6]}, tmp_path) == (5, 6)
    assert eos_ids({"eos_token_id": None}, tmp_path) == eos_ids({}, tmp_path) == ()
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    assert eos_ids({"eos_token_id": 5}, tmp_path) == (7, 8)
