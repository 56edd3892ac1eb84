"""Dockerfile.ascend, as far as it can be held without building it: pinned, without root or secrets, installed as the README says."""

import json
import re

import pytest

from .conftest import ROOT

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
    users = of(instructions, "USER")
    assert users and users[-1] not in ("root", "0") and kinds.index("USER") < kinds.index("ENTRYPOINT")
    assert f"useradd --uid 1000 --gid petrun --create-home {users[-1]}" in " ".join(of(instructions, "RUN"))
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
    kinds = [name for name, _ in instructions]
    assert max(i for i, kind in enumerate(kinds) if kind == "COPY") < kinds.index("RUN")


def test_the_entry_is_the_program(instructions, project):
    entry = json.loads(of(instructions, "ENTRYPOINT")[-1])
    assert len(entry) == 1 and entry[0] in project["project"]["scripts"]
