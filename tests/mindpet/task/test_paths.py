"""What the paths of a task must be."""

import os

import pytest

from petrun.mindpet.task import paths
from petrun.mindpet.task.paths import require_mindpet, resolved_paths, risks
from petrun.mindpet.utils.exceptions import MindPetError


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data.v1", "out", "model"):
        (tmp_path / name).mkdir(mode=0o750)
    (tmp_path / "boot.py").write_text("import argparse\n")
    (tmp_path / "boot.py").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "data.v1")
    return {"data_path": "data.v1", "output_path": "out", "boot_file_path": "boot.py"}


def test_paths_become_absolute_and_links_are_followed(given, tmp_path):
    found = resolved_paths({**given, "pretrained_model_path": "model", "data_path": "link"})
    assert found["data_path"] == tmp_path / "data.v1" and found["boot_file_path"] == tmp_path / "boot.py"
    assert all(path.is_absolute() for path in found.values()) and not risks(found)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"data_path": "nowhere"}, "nowhere does not exist"),
        ({"data_path": "boot.py"}, "must be a folder"),
        ({"boot_file_path": "out"}, "must be a file"),
        ({"model_config_path": "boot.py"}, "must end in .yaml or .yml"),
        ({"output_path": "data.v1"}, "must not be --data_path or a folder inside it"),
        ({"data_path": "."}, "must not be --data_path or a folder inside it"),
        ({"pretrained_model_path": "."}, "must not be --pretrained_model_path or"),
    ],
)
def test_a_path_that_cannot_be_is_refused(given, changes, part):
    with pytest.raises(MindPetError, match=part):
        resolved_paths({**given, **changes})


def test_all_problems_are_named_at_once(given):
    with pytest.raises(MindPetError) as caught:
        resolved_paths({**given, "data_path": "nowhere", "boot_file_path": "no.py"})
    assert "--data_path" in caught.value.message and "--boot_file_path" in caught.value.message


def test_what_others_can_change_is_a_risk(given, tmp_path, monkeypatch):
    (tmp_path / "out").chmod(0o770)
    (tmp_path / "boot.py").chmod(0o646)
    found = risks(resolved_paths(given))
    assert set(found) == {"output_path", "boot_file_path"} and "chmod go-w" in found["boot_file_path"]
    monkeypatch.setattr(paths.os, "geteuid", lambda: os.getuid() + 1)
    if os.getuid():
        assert "belongs to another user" in risks(resolved_paths(given))["data_path"]


def test_a_disk_that_is_nearly_full_is_a_risk(given, monkeypatch):
    monkeypatch.setattr(paths.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    assert "only 1 MiB are free" in risks(resolved_paths(given))["output_path"]


def test_a_script_that_imports_mindpet_is_told_the_word_to_change(tmp_path):
    script = tmp_path / "boot.py"
    script.write_text("import os\n\nfrom mindpet.delta import LoRADense\n")
    with pytest.raises(MindPetError, match=r"line 3: imports mindpet.*write petrun.mindpet"):
        require_mindpet(script)
    script.write_text(
        "from petrun.mindpet.delta import LoRADense\ntry:\n    import mindpet\nexcept ImportError:\n    pass\n"
    )
    require_mindpet(script)
    script.write_text("this is no Python")
    require_mindpet(script)
