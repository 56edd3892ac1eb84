"""What keeps a job of several hosts from working is found before it starts. The hosts are threads, which meet over real connections."""

import hashlib
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from petrun.assets import default_recipe
from petrun.cluster.first_sum import check_first_sum
from petrun.cluster.other_hosts.hosts import Hosts
from petrun.cluster.ranks import make_cluster
from petrun.cluster.world import World
from petrun.commands import launch
from petrun.config.commands.train import TrainSettings
from petrun.config.load import load_run_config
from petrun.errors import SetupError
from petrun.training.preflight import host_checks, host_facts


def config_of(**settings):
    flags = {key.replace("__", "."): (f"--{key}", value) for key, value in settings.items()}
    return load_run_config(None, flags, [], embedded=default_recipe()).config


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check(*configs):
    """What each host printed, and the error it ended with or None."""
    port, ended, said = free_port(), {}, {number: [] for number in range(len(configs))}

    def run(number):
        cluster = make_cluster(2 * len(configs), len(configs), number, "127.0.0.1", port)
        hosts = Hosts(cluster, max_restarts=0, show=lambda line: None, environment={"MS_TOPO_TIMEOUT": "20"})
        try:
            with hosts:
                hosts.connect_all()
                host_checks.check_hosts(
                    host_checks.JobStart(configs[number], cluster, "cpu"), hosts, said[number].append
                )
            ended[number] = None
        except SetupError as error:
            ended[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return [(said[number], ended[number]) for number in range(len(configs))]


def failed(lines):
    return [line.split()[1] for line in lines if line.startswith("FAILED")]


@pytest.fixture
def base(tmp_path):
    """Three hosts' folders with the same base and rows, and the disk that they share."""
    for host in ("a", "b", "c"):
        (tmp_path / host / "base").mkdir(parents=True)
        (tmp_path / host / "base" / "config.json").write_text("{}")
        (tmp_path / host / "base" / "model.safetensors").write_bytes(bytes(1000))
        (tmp_path / host / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "shared").mkdir()
    return tmp_path


def host(folder, name, **settings):
    given = {"model__base": str(folder / name / "base"), "data__path": [str(folder / name / "rows.jsonl")]}
    return config_of(**{**given, "out__dir": str(folder / "shared" / "run"), **settings})


def test_hosts_that_are_alike_pass_wherever_their_files_lie(base):
    (base / "b" / "base" / "README.md").write_text("only here")
    ended = check(host(base, "a"), host(base, "b"), host(base, "c"))
    assert [error for _, error in ended] == [None] * 3
    names = ["ports", "cards", "disk", "versions", "settings", "files", "clock", "addresses", "--out"]
    for lines, _ in ended:
        assert [line.split()[:2] for line in lines] == [["ok", name] for name in names]
    assert "3, the same on 3 hosts" in ended[0][0][5]
    assert list((base / "shared").iterdir()) == [], "nothing is left"


CONTENT = hashlib.blake2b(b"1000" + bytes(1000), digest_size=16).hexdigest()


def test_what_differs_is_named_on_every_host(base):
    (base / "b" / "base" / "model.safetensors").write_bytes(bytes(999) + b"1")
    (base / "b" / "base" / "config.json").unlink()
    ended = check(host(base, "a", optim__lr=0.25), host(base, "b", optim__lr=0.5))
    for lines, error in ended:
        assert failed(lines) == ["settings", "files"]
        assert "preflight: 2 of 9 checks failed: settings, files" in error.message
        text, here = "\n".join(lines), socket.gethostname()
        assert f"optim.lr: 0.25 on host 0 ({here}), 0.5 on host 1 ({here})" in text
        assert f"model.base: model.safetensors: content {CONTENT[:8]} on host 0" in text
        assert (
            f"on host 0 ({here}), not there on host 1 ({here})" in text and "model.base: config.json: content" in text
        )


def test_an_out_that_the_hosts_do_not_share(base, monkeypatch):
    monkeypatch.setattr(host_checks, "PATIENCE_SECONDS", 0.2)
    for lines, error in check(host(base, "a"), host(base, "b", out__dir=str(base / "b" / "run"))):
        assert failed(lines) == ["--out"] and "failed: --out" in error.message
        assert "host 1 does not see what host 0 writes there" in lines[-1]


def test_an_out_that_is_mounted_elsewhere_is_the_same_one(base):
    (base / "mount").symlink_to(base / "shared")
    ended = check(host(base, "a"), host(base, "b", out__dir=str(base / "mount" / "run")))
    assert [error for _, error in ended] == [None, None]


def test_what_one_host_finds_wrong_all_say(base):
    (base / "b" / "run").mkdir()
    (base / "b" / "run" / "results.json").write_text("{}")
    for lines, error in check(host(base, "a"), host(base, "b", out__dir=str(base / "b" / "run"))):
        assert lines == [] and "preflight: host 1 (" in error.message and "holds a finished run" in error.message


def test_a_clock_that_is_wrong(base, monkeypatch):
    real, first = time.time, threading.Event()

    def wrong():
        # The second host to look is an hour ahead.
        ahead = 3600.0 if first.is_set() else 0.0
        first.set()
        return real() + ahead

    monkeypatch.setattr(host_checks.time, "time", wrong)
    for lines, error in check(host(base, "a"), host(base, "b")):
        assert failed(lines) == ["clock"] and "differ by 3600." in lines[6] and "NTP" in lines[6] and error is not None


def test_other_versions(base, monkeypatch):
    seen = iter(["2.10.0", "2.9.0"])
    monkeypatch.setattr(host_checks, "versions", lambda: {"petrun": "1", "MindSpore": next(seen)})
    for lines, _ in check(host(base, "a"), host(base, "b")):
        assert failed(lines) == ["versions"]
        assert "MindSpore: 2." in lines[3] and "2.9.0 on host" in lines[3] and "2.10.0 on host" in lines[3]


def test_a_full_disk(base, monkeypatch):
    monkeypatch.setattr(host_facts.shutil, "disk_usage", lambda place: SimpleNamespace(free=100_000_000))
    for lines, _ in check(host(base, "a"), host(base, "b")):
        assert failed(lines) == ["disk"] and "0.1 GB free under" in lines[2]


def test_full_training_needs_room_for_its_states(base):
    lora, full = (host_facts.disk(host(base, "a", algo=algo), base / "shared") for algo in ("lora", "full"))
    # Two states, each of weights and two moments, and the weights: 7 times the base's 1000 bytes.
    assert full["needed"] - lora["needed"] == 7000


def test_a_fingerprint_is_of_the_content(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(200_000))
    before = host_facts.file_digest(file)
    assert host_facts.file_digest(file) == before
    for place in (0, 100_000, 199_999):
        content = bytearray(200_000)
        content[place] = 1
        file.write_bytes(content)
        assert host_facts.file_digest(file) != before
    file.write_bytes(bytes(200_001))
    assert host_facts.file_digest(file) != before
    # A large file is read in samples: its beginning and its end among them.
    monkeypatch.setattr(host_facts, "_WHOLE_BYTES", 1000)
    file.write_bytes(bytes(20_000_000))
    before = host_facts.file_digest(file)
    for place in (0, 19_999_999):
        content = bytearray(20_000_000)
        content[place] = 1
        file.write_bytes(content)
        assert host_facts.file_digest(file) != before


class Wrong(World):
    def summed(self, values):
        return values * 3


def test_the_first_sum():
    said = []
    check_first_sum(World(), said.append)
    assert said[0].startswith("ok      all-reduce  right over 1 ranks")
    with pytest.raises(SetupError, match="an all-reduce over 2 ranks gives"):
        check_first_sum(Wrong(rank=1, size=2), said.append)


def test_preflight_starts_ranks_that_only_meet_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(
        launch, "launch", lambda job, output: started.append(job) or job.logs.mkdir(parents=True, exist_ok=True) or 0
    )
    settings = TrainSettings(preflight=True, cards=2, max_restarts=3)
    output = launch.JobOutput(out=print, err=print)
    assert launch.run(settings, lambda added: ["train", "--preflight", *added], output) == 0
    assert started[0].command[-2:] == ("train", "--preflight") and started[0].max_restarts == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["ok", "cards"], ["ok", "disk"]]
    assert list(tmp_path.iterdir()) == []


def test_preflight_is_for_several_ranks(petrun):
    done = petrun("train --preflight")
    assert done.code == 2 and "--preflight: checks the start of a job of several ranks" in done.err
    assert "Give --cards N" in done.err
