"""Dockerfile.ascend, as far as it can be held without building it: pinned, without root or secrets, installed as the README says."""

import json
import os
import re
import subprocess

import pytest

from tests.conftest import ROOT

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")


@pytest.fixture(scope="module")
def instructions():
    """[(instruction, arguments)], comments gone and continued lines joined."""
    text = (ROOT / "Dockerfile.ascend").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in joined]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def of(instructions, kind):
    return [arguments for name, arguments in instructions if name == kind]


def image(instructions):
    assert of(instructions, "FROM") == ["${CANN_IMAGE}"]
    return dict(argument.split("=", 1) for argument in of(instructions, "ARG"))["CANN_IMAGE"]


def test_the_base_image_is_pinned(instructions):
    name, _, tag = image(instructions).partition(":")
    assert re.fullmatch(r"\d+\.\d+\.\d+-\w+-ubuntu[\d.]+-py3\.\d+", tag), "version, card, system and Python"
    assert "." not in name.split("/")[0], "no registry's host name"


def test_cann_and_python_are_ones_that_mindspore_and_petrun_take(instructions, project):
    from mindspore.run_check._check_version import AscendEnvChecker

    tag = image(instructions).partition(":")[2]
    assert ".".join(tag.split(".")[:2]) in AscendEnvChecker(None).version
    minor = int(tag.rpartition("-py3.")[2])
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["project"]["requires-python"]).groups()
    assert int(low) <= minor < int(high)


def test_it_runs_as_nobody_special_and_holds_no_secret(instructions):
    kinds = [name for name, _ in instructions]
    assert of(instructions, "USER") == ["1000:1000"] and kinds.index("USER") < kinds.index("ENTRYPOINT")
    assert "RUN" not in kinds[kinds.index("USER") :]
    given = " ".join(of(instructions, "ENV") + of(instructions, "ARG"))
    assert not re.search(r"token|secret|passw|api_?key", given, re.IGNORECASE)
    assert not of(instructions, "ADD")


def test_the_install_line_is_the_readmes(instructions):
    lines = [line for line in of(instructions, "RUN") if "pip" in line]
    assert len(lines) == 1
    assert re.search(rf"^\s*{re.escape(lines[0])}(\s|$)", (ROOT / "README.md").read_text(), re.MULTILINE), lines[0]


def test_what_is_copied_is_enough_to_install(instructions, project):
    copied = {source for line in of(instructions, "COPY") for source in line.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    assert copied >= {"pyproject.toml", project["project"]["readme"], "petrun", "recipes"}
    assert copied >= set(project["project"]["license-files"])
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied <= sent, "what .dockerignore keeps out cannot be copied"
    kinds = [name for name, _ in instructions]
    assert max(i for i, kind in enumerate(kinds) if kind == "COPY") < kinds.index("RUN")


def run_with(folder, programs, command, **environment):
    """Run bash where these programs stand first: name -> its lines. Returns what it prints."""
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(command, env={**path, **environment}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("taken", [(), ("group",), ("group", "passwd")])
def test_user_1000_is_made_where_there_is_none(instructions, tmp_path, taken):
    (line,) = [line for line in of(instructions, "RUN") if "groupadd" in line]
    getent = f"[[ ' {' '.join(taken)} ' == *\" $1 \"* ]]"
    made = {"groupadd": 'echo groupadd "$@"', "useradd": 'echo useradd "$@"', "install": 'echo install "$@"'}
    done = run_with(tmp_path, {"getent": getent, **made}, ["bash", "-c", line])
    wanted = [] if "group" in taken else ["groupadd --gid 1000 petrun"]
    wanted += [] if "passwd" in taken else ["useradd --uid 1000 --gid 1000 --create-home petrun"]
    assert (done.returncode, done.stdout.splitlines()) == (0, [*wanted, "install -d -o 1000 -g 1000 /work"])


def test_the_entry_is_the_program_with_the_environment_of_cann(instructions, project, tmp_path):
    """/etc/profile as the images of CANN 9.1.0 write it, down to what is sourced; a pod's own command gets it as well."""
    (line,) = [line for line in of(instructions, "RUN") if "/etc/profile" in line]
    scripts = {"ascend-toolkit/set_env.sh": "export TOOLKIT=$EMPTY:1", "nnal/atb/set_env.sh": "export ABI=$1"}
    for name, text in scripts.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    profile = "export PATH=$PATH\nsource /usr/local/Ascend/ascend-toolkit/set_env.sh\n"
    (tmp_path / "profile").write_text(f"{profile}source /usr/local/Ascend/nnal/atb/set_env.sh --cxx_abi=1\n")
    here = line.replace("/etc/", f"{tmp_path}/")
    assert subprocess.run(["bash", "-c", here], timeout=60).returncode == 0
    settings = dict(argument.split("=", 1) for argument in of(instructions, "ENV"))
    sourced = tmp_path / settings["BASH_ENV"].removeprefix("/etc/")
    assert len(sourced.read_text().splitlines()) == 2
    sourced.write_text(sourced.read_text().replace("/usr/local/Ascend", str(tmp_path)))
    entry, default = json.loads(of(instructions, "ENTRYPOINT")[-1]), json.loads(of(instructions, "CMD")[-1])
    assert "petrun" in project["project"]["scripts"] and default == ["--help"]
    petrun = {"petrun": 'printf \'%s|\' "$TOOLKIT" "$ABI" "$@"'}
    for command in ([*entry, "train", "a b", "$HOME"], ["/bin/bash", "-c", "set -u; exec petrun train 'a b' '$HOME'"]):
        done = run_with(tmp_path, petrun, command, BASH_ENV=str(sourced))
        assert done.stdout == ":1|--cxx_abi=1|train|a b|$HOME|", done.stderr


def test_the_example_gives_a_container_what_several_ranks_need():
    text = (ROOT / "Dockerfile.ascend").read_text()
    examples = " ".join(line.lstrip("# ").rstrip("\\") for line in text.splitlines() if line.startswith("#   "))
    for words in (
        "--shm-size=",
        "-v /etc/hccn.conf:/etc/hccn.conf:ro",
        "/dev/davinci_manager",
        "petrun train --cards 8",
    ):
        assert words in examples
    cards = re.search(r"\$\((printf [^)]*)\)", examples)[1]
    done = subprocess.run(["bash", "-c", cards], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [f"--device=/dev/davinci{card}" for card in range(8)]
