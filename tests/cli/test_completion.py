"""Tab completion, through the protocol that the shell's script speaks with the program."""

import os
import subprocess
import sys

import pytest

from petrun.config.flags import method_names
from petrun.config.load import recipe_names
from petrun.delta import METHODS

PROGRAM = """
import sys
from petrun.cli.app import main
try:
    main()
finally:
    print("mindspore" in sys.modules, file=sys.stderr)
"""


def complete(line):
    """What bash would offer behind the last word of `line`."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_PETRUN_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr.split()[-1] == "False", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("petrun m", ["merge", "mindpet"]),
        ("petrun train --sch", ["--schedule"]),
        ("petrun train --algo ", sorted(METHODS)),
        ("petrun train --schedule co", ["constant", "cosine"]),
        ("petrun train --task ", ["classify", "lm", "instruct", "preference", "tokens", "image"]),
        ("petrun predict --task i", ["instruct", "image"]),
        ("petrun eval --device ", ["cpu", "ascend"]),
        ("petrun train --format s", ["safetensors"]),
        ("petrun merge --dtype b", ["bfloat16"]),
        ("petrun train own/", ["own/mlp"]),
        ("petrun eval --metrics accuracy,f", ["accuracy,f1_macro"]),
        ("petrun train --tracker s", ["swanlab"]),
        ("petrun recipes cp ", recipe_names()),
        ("petrun delta convert --to ", ["petrun", "peft", "vllm", "gguf", "mindpet", "diffusers", "kohya"]),
        ("petrun quantize --base-bits ", ["8", "4"]),
        ("petrun job --to s", ["slurm", "shell"]),
        ("petrun ranktable ", ["lint", "show", "make", "convert"]),
        ("petrun ranktable show --start msrun-", ["msrun-table"]),
    ],
)
def test_what_is_offered(line, offered):
    assert complete(line) == offered


def test_the_algorithms_are_those_there_are():
    assert method_names() == sorted(METHODS)


def test_the_script_for_bash_is_installed(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "petrun", "--install-completion", "bash"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    script = tmp_path / ".bash_completions" / "petrun.sh"
    assert "_PETRUN_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


def test_folders_of_runs_are_offered_the_newest_first(tmp_path, monkeypatch):
    for n, name in enumerate(("old-1", "new-1", "empty")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        if name != "empty":
            (folder / "run.yaml").touch()
            os.utime(folder / "run.yaml", (n, n))
            os.utime(folder, (n, n))
    monkeypatch.chdir(tmp_path)
    assert complete("petrun report ") == ["runs/new-1", "runs/old-1"]
    assert complete("petrun watch runs/o") == ["runs/old-1"]
    for line in (
        "resume ",
        "eval --delta ",
        "merge --delta ",
        "train --init-delta ",
        "inspect ",
        "delta info ",
        "train --resume ",
    ):
        assert complete(f"petrun {line}") == ["runs/new-1", "runs/old-1"], line
