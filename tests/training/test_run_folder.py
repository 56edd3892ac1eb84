"""The run folder: names, refusals, whole files."""

import json

import pytest

from petrun.checkpoint.run_files import run_files
from petrun.errors import OutputError
from petrun.tensors.output import check_file, write_text
from petrun.training.run_folder import RunFolder, choose, next_free


def test_next_free_number_is_numeric(tmp_path):
    assert next_free("lora", tmp_path).name == "lora-1"
    for name in ("lora-1", "lora-9", "lora-10", "full-30", "lora-x"):
        (tmp_path / name).mkdir()
    assert next_free("lora", tmp_path).name == "lora-11"
    assert next_free("full", tmp_path).name == "full-31"


def test_default_folder_is_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, unfinished = choose(None, "lora", "ckpt")
    assert str(out.path) == "runs/lora-1" and not out.path.exists() and not unfinished
    out.create()
    assert out.path.is_dir() and choose(None, "lora", "ckpt")[0].path.name == "lora-2"
    assert out.delta.name == "lora.ckpt" and out.best.name == "best.ckpt"


def test_finished_run_is_refused(tmp_path):
    out, _ = choose(str(tmp_path / "r"), "lora", "ckpt")
    out.create()
    out.write_text("run.yaml", "algo: lora\n")
    assert choose(str(tmp_path / "r"), "lora", "ckpt")[1] is True
    out.write_results({"accuracy": 1.0})
    assert json.loads((tmp_path / "r" / "results.json").read_text()) == {"accuracy": 1.0}
    with pytest.raises(OutputError, match="finished run"):
        choose(str(tmp_path / "r"), "lora", "ckpt")


def test_two_runs_that_start_together_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = choose(None, "lora", "ckpt")[0], choose(None, "lora", "ckpt")[0]
    assert [first.create().path.name, second.create().path.name] == ["lora-1", "lora-2"]
    first, second = choose("mine", "lora", "ckpt")[0], choose("mine", "lora", "ckpt")[0]
    first.create()
    with pytest.raises(OutputError, match="another run has made it meanwhile"):
        second.create()


def test_an_unfinished_run_starts_over_unless_it_saved_a_delta(tmp_path):
    out = choose(str(tmp_path / "r"), "lora", "ckpt")[0].create()
    out.write_text("run.yaml", "algo: lora\n")
    assert choose(str(out.path), "lora", "ckpt")[1] is True
    out.best.write_bytes(b"hours of work")
    with pytest.raises(OutputError, match=r"did not finish, with a delta that it saved: best\.ckpt"):
        choose(str(out.path), "lora", "ckpt")
    assert out.best.read_bytes() == b"hours of work"


def test_a_place_that_takes_no_files(tmp_path):
    for path in ("/proc/petrun/run", str(tmp_path / ("r" * 300))):
        with pytest.raises(OutputError, match="cannot write to --out"):
            choose(path, "lora", "ckpt")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "lora.ckpt").write_bytes(b"precious")
    with pytest.raises(OutputError, match="is not empty and holds no petrun run"):
        choose(str(tmp_path), "lora", "ckpt")
    assert (tmp_path / "lora.ckpt").read_bytes() == b"precious"


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        choose(str(tmp_path / "f"), "lora", "ckpt")
    with pytest.raises(OutputError, match="cannot write to --out"):
        choose(str(tmp_path / "f" / "g"), "lora", "ckpt")


def test_a_result_replaces_nothing_that_is_read(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    run = choose(str(tmp_path / "run"), "lora", "ckpt")[0].create()
    for path in (base / "config.json", tmp_path / "rows.jsonl", run.delta, run.best, run.log, tmp_path / "old.json"):
        path.write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "rows.jsonl")
    inputs = (base, tmp_path / "rows.jsonl", *run_files(run.delta))
    for path in ("base/config.json", "rows.jsonl", "link", "run/lora.ckpt", "run/best.ckpt", "run/log.jsonl"):
        with pytest.raises(OutputError, match=f"--out .*{path}: would replace what this command reads"):
            check_file("--out", str(tmp_path / path), inputs)
    for path in ("old.json", "new.json", "run/eval.json"):
        check_file("--out", str(tmp_path / path), inputs)
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("base", "--logits .*base is a folder"),
        ("nowhere/x", "the folder .*nowhere does not exist"),
        ("file/x", "the folder .*file is a file, not a folder"),
        ("x" * 300, "File name too long"),
        ("/proc/x", "cannot be written"),
        ("/dev/null", "is not a file but a device"),
    ],
)
def test_results_that_cannot_be_written(tmp_path, path, message):
    (tmp_path / "base").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=message):
        check_file("--logits", str(tmp_path / path), ())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "file"]


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    write_text(target, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_text(target, "new")
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_composed_algorithms_have_plain_file_names(tmp_path):
    assert RunFolder(path=tmp_path, algo="lora+bitfit", format="safetensors").delta.name == "lora-bitfit.safetensors"
