"""`petrun doctor`: a line for each finding, and an exit code that says whether one blocks."""

import json

import pytest

from petrun.cluster.doctor import software


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    """The process that imports MindSpore takes seconds; tests/cluster/doctor/test_software.py runs it."""
    found = {"mindspore": "2.10.0", "product": 4.0, "fused": True, "kernels": "C++ operators", "cann": ["9.1"]}
    monkeypatch.setattr(software, "probe", lambda: (found, ""))


def test_a_machine_that_works(petrun, quick, monkeypatch):
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    done = petrun("doctor")
    assert done.code == 0, done.out
    names = [line.split()[1] for line in done.out.splitlines() if line.split()[0] in ("ok", "note")]
    assert names[:5] == ["python", "packages", "mindspore", "operators", "CANN"] and {"disk", "threads", "g++"} < set(
        names
    )


def test_what_blocks_is_named_with_the_command_that_mends_it(petrun, monkeypatch):
    monkeypatch.setattr(software, "probe", lambda: ({}, "ImportError: numpy.core.multiarray failed to import"))
    done = petrun("doctor --json")
    assert done.code == 1 and "doctor: 1 of " in done.err and "mindspore: pip install --force-reinstall" in done.err
    found = {each["name"]: each for each in json.loads(done.out)}
    assert found["mindspore"]["verdict"] == "blocks" and "multiarray" in found["mindspore"]["text"]


def test_cards_that_are_asked_for_and_not_here_block(petrun, quick, monkeypatch):
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    done = petrun("doctor --device ascend")
    assert done.code == 1 and "CANN" in done.err and "cards" in done.err


def test_an_unknown_device_is_refused(petrun):
    done = petrun("doctor --device gpu")
    assert done.code == 2 and "--device gpu: must be cpu or ascend" in done.err


def test_versions_that_go_together_are_printed_with_their_source(petrun):
    done = petrun("doctor --versions")
    assert done.code == 0 and "9.1   2.10.0" in done.out and "hiascend.com" in done.out and "7.8.0.5.216" in done.out
    lines = json.loads(petrun("doctor --versions --json").out)["CANN"]
    assert [line["CANN"] for line in lines] == ["8.2", "8.3", "8.5", "9.1"] and lines[2]["MindSpore"] == "2.7.2"


def test_hosts_that_are_named_are_reached(petrun, quick, tmp_path):
    done = petrun("doctor --reach 127.0.0.1,localhost")
    assert done.code == 0 and done.out.count("answers") == 2
    servers = [
        {
            "server_id": f"127.0.0.{n}",
            "device": [{"device_id": "0", "device_ip": f"192.168.1.{n}", "rank_id": str(n - 1)}],
        }
        for n in (1, 2)
    ]
    table = {"version": "1.0", "status": "completed", "server_count": "2", "server_list": servers}
    (tmp_path / "hccl.json").write_text(json.dumps(table))
    done = petrun("doctor --rank-table hccl.json --host-rank 0")
    assert done.code == 0 and "this host is 127.0.0.1" in done.out and "127.0.0.2 answers" in done.out
    assert "petrun train --rank-table hccl.json --preflight" in done.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--hosts 2", "--hosts 2: needs --out"),
        ("--out x", "--out: without effect here"),
        ("--host-rank 1 --master-port 9000", "--host-rank, --master-port: without effect here"),
    ],
)
def test_options_of_a_sum_that_is_not_computed_are_refused(petrun, line, said):
    done = petrun(f"doctor {line}")
    assert done.code == 2 and said in done.err


def test_ranks_are_started_for_a_sum(petrun, quick, monkeypatch):
    """The line of a rank is a preflight of train; tests/commands/test_launch.py runs one."""
    from petrun.commands import launch

    seen = {}

    def run(settings, arguments, output):
        seen.update(settings=settings, line=arguments(["--log"]))
        return 3

    monkeypatch.setattr(launch, "run", run)
    done = petrun("doctor --cards 4 --hosts 2 --host-rank 1 --master-addr 10.0.0.1 --out shared --device cpu")
    assert done.code == 3
    assert seen["line"] == ["train", "--log", "--device", "cpu", "--out", "shared", "--preflight"]
    assert seen["settings"].preflight and seen["settings"].flags["out.dir"] == ("--out", "shared")
    assert seen["settings"].launch_flags() == {
        "--cards": 4, "--hosts": 2, "--host-rank": 1, "--master-addr": "10.0.0.1",
    }  # fmt: skip
