"""MindPet's strategies on eight cards: the cells compile, forward and backward, with every activation that can be split.

On MindSpore's Ascend front end with a stub of CANN, see test_rehearsal.py. Nothing is computed.
"""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.mindpet.numbers import NAMES, NOT_SPLIT

QUICK = [
    "lora/gelu",
    "lora_by_attribute/gelu",
    "lora_bfloat16/gelu",
    "adapter/tanh",
    "low_rank/logsigmoid",
    "prefix_encoder/split",
]
ALL = [f"{cell}/{name}" for cell in ("lora", "adapter", "low_rank") for name in NAMES if name not in NOT_SPLIT]
ALL += ["prefix_encoder/split", "prefix_encoder/whole", "prefix_encoder_bfloat16/split"]
ALL += [f"{cell}_bfloat16/gelu" for cell in ("lora", "lora_by_attribute", "adapter", "low_rank")]


def compile_all(ascend, folder, cases):
    environment = ascend(0, 8, 0)
    environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
    command = [sys.executable, "-m", "tests.parallel.split_cells", *cases]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    found = dict(line.split(" ", 2)[1:] for line in done.stdout.splitlines() if line.startswith("CASE "))
    assert found == dict.fromkeys(cases, "OK")


def test_split_cells_compile(ascend, tmp_path):
    compile_all(ascend, tmp_path, QUICK)


@pytest.mark.all_only
def test_every_activation_compiles_in_every_cell(ascend, tmp_path):
    assert len(ALL) == 3 * 21 + 3 + 4
    compile_all(ascend, tmp_path, ALL)
