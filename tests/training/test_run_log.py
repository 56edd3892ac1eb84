"""The log: whole lines or none, also where the disk ends in the middle of one."""

import json
import resource

import pytest

from petrun.errors import OutputError
from petrun.training.run_log import RunLog


def test_a_line_is_in_the_file_when_write_returns(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    for step in (1, 2):
        log.write({"step": step})
        assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1]) == {"step": step}
    log.close()


def test_a_disk_that_ends_inside_a_line(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(OutputError, match=r"log\.jsonl: cannot be written: File too large"):
            for step in range(10):
                log.write({"step": step, "loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.close()
    lines = (tmp_path / "log.jsonl").read_text()
    assert lines == '{"step": 0, "loss": 0.5}\n{"step": 1, "loss": 0.5}\n'


def test_a_log_that_cannot_be_opened(tmp_path):
    with pytest.raises(OutputError, match="cannot be written: Is a directory"):
        RunLog(tmp_path)
