"""Examine Python, petrun's packages, and what MindSpore does in a process of its own: a broken one must not end the examination."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from petrun.cluster.doctor.finding import Finding
from petrun.typing import JsonObject

PYTHONS = ((3, 10), (3, 13))
"""From the first up to, but without, the second: as pyproject.toml says."""
_SECONDS = 180.0
_PROBE = """
import json
found = {}
import mindspore as ms
import numpy as np
found["mindspore"] = str(ms.__version__)
ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_device("CPU")
one = ms.Tensor(np.eye(2, dtype=np.float32))
found["product"] = float((ms.ops.matmul(one, one) + one).sum().asnumpy())
from petrun import kernels
status = kernels.status()
found["fused"], found["kernels"] = bool(status.fused), status.reason
try:
    from mindspore.run_check._check_version import AscendEnvChecker
    found["cann"] = [str(each) for each in AscendEnvChecker(None).version]
except (ImportError, AttributeError, TypeError):
    found["cann"] = []
print("found " + json.dumps(found))
"""


def python() -> Finding:
    """Return whether petrun takes this Python."""
    here = sys.version_info
    text = f"{here.major}.{here.minor}.{here.micro}, {sys.executable}"
    if PYTHONS[0] <= here[:2] < PYTHONS[1]:
        return Finding(name="python", verdict="ok", text=text)
    mend = "python3.11 -m venv .venv && .venv/bin/pip install petrun"
    return Finding(name="python", verdict="blocks", text=f"{text}: petrun needs 3.10, 3.11 or 3.12", mend=mend)


def python_text() -> str:
    """Return the versions of Python that petrun takes, as text."""
    first, end = PYTHONS
    return f">={first[0]}.{first[1]},<{end[0]}.{end[1]}"


def needs() -> list[Requirement]:
    """Return what petrun's own metadata asks for; nothing where petrun is not installed, only on PYTHONPATH."""
    try:
        return [Requirement(line) for line in metadata.requires("petrun") or []]
    except metadata.PackageNotFoundError:
        return []


def packages(wanted: list[str] | None = None) -> Iterator[Finding]:
    """Yield whether the packages that petrun needs are here, in versions that it takes. `wanted`: as in pyproject.toml."""
    if wanted is None:
        try:
            wanted = metadata.requires("petrun") or []
        except metadata.PackageNotFoundError:
            text = "petrun is not installed, only on PYTHONPATH: its packages are not checked"
            yield Finding(name="packages", verdict="note", text=text, mend="pip install -e .")
            return
    good = []
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        if version and requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
            continue
        text = f"{requirement.name} {version or 'is not installed'}, and petrun needs {requirement.specifier or 'it'}"
        yield Finding(
            name="packages",
            verdict="blocks",
            text=text,
            mend=f"pip install '{requirement.name}{requirement.specifier}'",
        )
    named = [each for each in good if each.split()[0] in ("mindspore", "numpy")]
    yield Finding(name="packages", verdict="ok", text=", ".join([*named, f"{len(good) - len(named)} others"]))


def probe(program: str = _PROBE) -> tuple[JsonObject, str]:
    """Import MindSpore in another process, multiply on the CPU, and load petrun's operators. Returns (what it found, why it failed)."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, str(error)
    found = re.search(r"^found (\{.*\})$", done.stdout, re.MULTILINE)
    if found:
        return json.loads(found[1]), ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return {}, lines[-1] if lines else ended


def mindspore(found: JsonObject, failed: str) -> Iterator[Finding]:
    """Yield whether MindSpore works, and whether petrun's own operators do."""
    if failed:
        mend = "pip install --force-reinstall 'mindspore>=2.7.2,<2.11' 'numpy>=1.26,<2'"
        yield Finding(name="mindspore", verdict="blocks", text=f"it does not work here: {failed}", mend=mend)
        return
    if found["product"] != 4.0:
        text = f"{found['mindspore']} computes wrongly: a sum of 4 comes out as {found['product']:g}"
        yield Finding(name="mindspore", verdict="blocks", text=text, mend="pip install --force-reinstall mindspore")
        return
    yield Finding(name="mindspore", verdict="ok", text=f"{found['mindspore']}, computes on the CPU")
    if found["fused"]:
        yield Finding(name="operators", verdict="ok", text=found["kernels"])
    else:
        text = f"MindSpore's own, which are slower on the CPU: {found['kernels']}"
        yield Finding(name="operators", verdict="note", text=text, mend="apt-get install g++")
