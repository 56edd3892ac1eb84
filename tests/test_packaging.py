"""An installed petrun is complete: the embedded base, the sources of the kernels, the recipes and the licence are in the wheel."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from petrun.config.load import recipe_names
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A wheel, built from a copy of the tree without the network."""
    if int(pytest.importorskip("setuptools").__version__.split(".")[0]) < 77:
        pytest.skip("pyproject.toml asks for setuptools 77")
    folder = tmp_path_factory.mktemp("wheel")
    leave = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("petrun", "recipes"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(folder), *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (built,) = (folder / "out").glob("petrun-*.whl")
    with zipfile.ZipFile(built) as opened:
        yield opened


@pytest.fixture(scope="module")
def wheel(archive):
    """Names of the files in the wheel."""
    return set(archive.namelist())


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "petrun").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(ours) > 100 and not ours - wheel
    for kind in ("petrun/assets/base/model.safetensors", "petrun/kernels/attention.cpp", "petrun/kernels/vector.h"):
        assert kind in wheel


def test_the_recipes_are_in_the_wheel_with_what_lies_beside_them(wheel):
    assert {f"petrun/recipes/{name}.yaml" for name in recipe_names()} <= wheel
    beside = sorted((ROOT / "recipes").rglob("*.py"))
    assert {f"petrun/recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" for path in beside} <= wheel
    assert len(beside) >= 2


def test_nothing_else_is_in_the_wheel(wheel):
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"petrun"}


def test_the_licence_is_in_the_wheel_as_its_metadata_says(archive, wheel):
    (metadata,) = [name for name in wheel if name.endswith(".dist-info/METADATA")]
    lines = archive.read(metadata).decode().splitlines()
    assert "License-Expression: Apache-2.0" in lines and "License-File: LICENSE" in lines
    text = archive.read(metadata.replace("METADATA", "licenses/LICENSE")).decode()
    assert text == (ROOT / "LICENSE").read_text()
    words = text.split()
    assert words[:4] == ["Apache", "License", "Version", "2.0,"] and "END OF TERMS AND CONDITIONS" in text
