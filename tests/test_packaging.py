"""An installed petrun is complete: the embedded base, the kernels' sources and the recipes are in the wheel."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from petrun.config.load import recipe_names
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names of the files in a wheel, built from a copy of the tree without the network."""
    if tuple(map(int, pytest.importorskip("setuptools").__version__.split(".")[:2])) < (70, 1):
        pytest.importorskip("wheel")
    folder = tmp_path_factory.mktemp("wheel")
    leave = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("petrun", "recipes"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=leave)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(folder), *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (built,) = (folder / "out").glob("petrun-*.whl")
    return set(zipfile.ZipFile(built).namelist())


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
