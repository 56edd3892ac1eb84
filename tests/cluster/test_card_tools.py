"""What the cards' own tools report, and what CANN says of itself."""

import stat

from petrun.cluster.card_tools import cann_version, card_tools, visible_devices


def tool(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


SMI = """cat <<'END'
| 0     910B3               | {}              | 94.1        45                0    / 0             |
| 1     910B3               | OK              | 94.1        45                0    / 0             |
END"""


def test_the_cards_own_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert card_tools([0], several_hosts=False) == [("npu-smi", True, "not on PATH")]
    tool(tmp_path, "npu-smi", SMI.format("OK"))
    assert card_tools([0], several_hosts=False) == [("npu-smi", True, "2 cards, 2 OK")]
    tool(tmp_path, "npu-smi", SMI.format("Critical"))
    assert card_tools([0], several_hosts=False) == [("npu-smi", False, "2 cards, 1 OK, Critical")]
    tool(tmp_path, "npu-smi", "echo dcmi module initialize failed; exit 1")
    assert card_tools([0], several_hosts=False) == [("npu-smi", False, "exit code 1: dcmi module initialize failed")]
    tool(tmp_path, "hccn_tool", '[ "$2" = 3 ] && echo link status: DOWN || echo link status: UP')
    _, (name, good, text) = card_tools([0, 1], several_hosts=True)
    assert (name, good) == ("hccn", True) and "the links of cards 0, 1 are up" in text
    _, (name, good, text) = card_tools([2, 3], several_hosts=True)
    assert (name, good) == ("hccn", False) and "no link: card 3: link status: DOWN" in text
    assert visible_devices({"ASCEND_RT_VISIBLE_DEVICES": "4,6,7"}, 2) == [4, 6]
    assert visible_devices({}, 2) == [0, 1]


def test_the_version_of_cann(tmp_path):
    assert cann_version({}) is None and cann_version({"ASCEND_HOME_PATH": str(tmp_path)}) is None
    file = tmp_path / "version.cfg"
    file.write_text("[whole]\ntoolkit_running_version=[8.5.0:8.5.0]\n")
    assert cann_version({"ASCEND_TOOLKIT_HOME": str(tmp_path)}) == "8.5.0:8.5.0"
    file.write_text("nothing\n")
    assert cann_version({"ASCEND_HOME_PATH": str(tmp_path)}) == "unknown"
