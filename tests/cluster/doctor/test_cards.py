"""CANN, driver and cards as they lie on a disk, against what goes together."""

import pytest

from petrun.cluster.doctor import cards
from petrun.cluster.doctor.releases import first_two, order

TAKEN = ["8.2", "8.3", "8.5", "9.0", "9.1"]


@pytest.fixture
def toolkit(tmp_path):
    """toolkit("8.5.0") -> the environment that set_env.sh of that version makes."""

    def make(version):
        (tmp_path / "version.cfg").write_text(f"toolkit_running_version=[{version}:{version}]\n")
        return {"ASCEND_TOOLKIT_HOME": str(tmp_path)}

    return make


def test_a_cann_that_this_mindspore_takes(toolkit, tmp_path):
    found = cards.cann(toolkit("9.1.0"), "2.10.0", TAKEN, True, tmp_path)
    assert found.verdict == "ok" and "MindSpore 2.10.0 was released with 9.1.0" in found.text


def test_a_cann_that_it_does_not_take_blocks(toolkit, tmp_path):
    found = cards.cann(toolkit("8.1.RC1"), "2.10.0", TAKEN, False, tmp_path)
    assert (
        found.verdict == "blocks"
        and "takes 8.2, 8.3, 8.5, 9.0, 9.1" in found.text
        and "install CANN 9.1.0" in found.mend
    )


def test_without_cann_petrun_computes_on_the_cpu_unless_cards_are_asked_for(tmp_path):
    assert cards.cann({}, "2.10.0", TAKEN, False, tmp_path).verdict == "ok"
    found = cards.cann({}, "2.10.0", TAKEN, True, tmp_path)
    assert found.verdict == "blocks" and "install CANN 9.1.0" in found.mend


def test_a_shell_that_has_not_read_set_env_is_told_the_line(tmp_path):
    script = tmp_path / "ascend-toolkit" / "set_env.sh"
    script.parent.mkdir()
    script.touch()
    found = cards.cann({}, "2.10.0", TAKEN, True, tmp_path)
    assert (found.verdict, found.mend) == ("blocks", f"source {script}")


@pytest.mark.parametrize(
    ("cann", "driver", "verdict", "words"),
    [
        ("8.2.RC1", "25.2.0", "ok", "released with 25.2.0"),
        ("8.2.RC1", "24.1.rc2", "ok", "released with 25.2.0"),
        ("8.2.RC1", "24.1.RC1", "blocks", "older than 24.1.RC2"),
        ("8.5.0", "24.1.0", "blocks", "older than 25.0.RC1"),
        ("9.1.0", "23.0.0", "ok", "not in petrun's table"),
    ],
)
def test_the_driver_against_cann(toolkit, tmp_path, cann, driver, verdict, words):
    for part in ("driver", "firmware"):
        (tmp_path / part).mkdir()
    (tmp_path / "driver" / "version.info").write_text(f"Version={driver}\nascendhal_version=7.35.19\n")
    (tmp_path / "firmware" / "version.info").write_text("Version=7.7.0.1.231\n")
    found, firmware = cards.driver(toolkit(cann), False, tmp_path)
    assert found.verdict == verdict and words in found.text
    assert firmware.name == "firmware" and firmware.text.startswith("7.7.0.1.231")
    assert ("Ascend HDK 25.2.0 brings 7.7.0.6.236" in firmware.text) is cann.startswith("8.2")


def test_a_missing_driver_blocks_where_cards_are_asked_for(tmp_path):
    assert [each.verdict for each in cards.driver({}, True, tmp_path)] == ["blocks"]
    assert not list(cards.driver({}, False, tmp_path))


def test_cards_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    first, smi = cards.cards(True, tmp_path)
    assert first.verdict == "blocks" and smi.verdict == "ok"
    for name in ("davinci0", "davinci1", "davinci_manager"):
        (tmp_path / name).touch()
    first, smi = cards.cards(True, tmp_path)
    assert first.text == "2: davinci0, davinci1" and smi.verdict == "note" and smi.mend
    tool = tmp_path / "npu-smi"
    tool.write_text("#!/bin/sh\necho dcmi module initialize failed; exit 1\n")
    tool.chmod(0o755)
    assert [each.verdict for each in cards.cards(False, tmp_path)] == ["ok", "blocks"]


def test_versions_are_ordered_as_they_were_released():
    names = ["24.1.RC1", "24.1.rc2", "24.1.RC3", "24.1.0", "25.0.RC1", "25.2.0", "25.3.RC1", "25.5.0", "25.5.1"]
    assert sorted(names, key=order) == names
    assert (first_two("8.2.RC1"), first_two("8.5.0.1:8.5"), first_two("unknown")) == ("8.2", "8.5", "unknown")
