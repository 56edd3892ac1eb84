"""Every kernel compiles for Ascend, forward and backward: MindSpore's real front end over a stub of CANN. Computes nothing."""

import importlib.util
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def test_every_kernel_compiles_for_ascend(shared, tmp_path):
    rig = shared / "ascend_rehearsal" / "simrig.py"
    if not (shutil.which("g++") and shutil.which("readelf") and rig.is_file()):
        pytest.skip("needs g++, binutils and the stub's maker")
    spec = importlib.util.spec_from_file_location("simrig", rig)
    simrig = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simrig)
    # MindSpore looks for "ascend" in the library's path.
    environment = simrig.env(simrig.ensure_stub(str(tmp_path / "ascend" / "stub_cann")), rank=0, world=1, level=0)
    environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
    command = [sys.executable, "-m", "tests.kernels.ascend_net", str(tmp_path / "graphs")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
    line = next(line for line in done.stdout.splitlines() if line.startswith("OPERATORS"))
    found = set(line.split()[1:])
    # Attention with dropout on 16 keys: whole bytes of a mask, so the flash operator takes it.
    wanted = {"FlashAttentionScore", "FlashAttentionScoreGrad", "LayerNorm", "LayerNormGrad", "RmsNorm", "RmsNormGrad"}
    assert wanted <= found, sorted(found)
    assert {"GeluExt", "GeluGradExt"} <= found or "GeLU" in found, sorted(found)
    assert "Custom" not in found
