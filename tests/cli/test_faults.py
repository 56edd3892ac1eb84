"""What MindSpore and the card say when they fail, told in a line, and in whole where a rank's log is all that is left of it."""

import sys

import pytest

from petrun.cli import app, faults

RULE = "-" * 52
MEMORY = (
    f"\n{RULE}\n- Memory not enough:\n{RULE}\nDevice(id:3) memory isn't enough and alloc failed, kernel name: MatMul-op7, alloc size: "
    f"2147483648B.\n\n{RULE}\n- C++ Call Stack: (For framework developers)\n{RULE}\nmemory_manager.cc:12 Run\n"
)
SOCKET = (
    f"Launch task failed\n\n{RULE}\n- Ascend Error Message:\n{RULE}\nEI0006: 2026-01-01-00:00:00 Getting socket times out. Reason: Remote "
    "Rank did not send the data in time.\n        Solution: 1. Check the rank service processes\n"
)
OTHER = f"\n{RULE}\n- Ascend Error Message:\n{RULE}\nEZ9999: Inner Error!\n"


def test_what_is_known_has_a_way_out():
    told = faults.as_petrun_error(RuntimeError(MEMORY))
    assert told.message.startswith("the card's memory is not enough: Device(id:3)") and "--recompute full" in told.hint
    assert told.code == "setup.device_memory"
    for text in ("Out of Memory!!! Request memory size: 12", "EL0004: Failed to allocate memory."):
        assert faults.as_petrun_error(RuntimeError(text)).message == f"the card's memory is not enough: {text}"
    told = faults.as_petrun_error(RuntimeError(SOCKET))
    assert told.message.startswith("HCCL waits in vain: EI0006: ") and "HCCL_CONNECT_TIMEOUT" in told.hint
    assert told.code == "setup.link"
    assert faults.as_petrun_error(RuntimeError(OTHER)) is None and faults.as_petrun_error(RuntimeError("no")) is None


@pytest.mark.parametrize("role", [None, "MS_WORKER"])
def test_a_rank_leaves_all_of_it_in_its_log(monkeypatch, capsys, role):
    def run(arguments):
        raise RuntimeError(MEMORY)

    monkeypatch.setattr(app, "_run", run)
    monkeypatch.setattr(app.signals, "install", lambda: None)
    monkeypatch.setattr(sys, "argv", ["petrun", "train"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    if role is not None:
        monkeypatch.setenv("MS_ROLE", role)
    with pytest.raises(SystemExit) as end:
        app.main()
    said = capsys.readouterr().err
    assert end.value.code == 1 and "error: the card's memory is not enough: Device(id:3) memory" in said
    assert ("Traceback" in said and "memory_manager.cc:12" in said) == (role is not None)
    try:
        raise ZeroDivisionError("no")
    except ZeroDivisionError as error:
        app._unexpected(type(error), error, error.__traceback__)
    said = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: no\n" in said
    assert ("Traceback" in said, "--debug" in said) == ((False, True) if role is None else (True, False))
