"""`petrun export --check`: compare the logits of base + delta with those of what was written, as the tool that it is for reads it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.cluster.processes.own_process import answered
from petrun.config.schema import ModelConfig
from petrun.data.tasks import TOKENS
from petrun.errors import ConfigError, SetupError
from petrun.inference.assembly import open_base, open_delta
from petrun.inference.merging.probe import Probe, logits_with, probe_delta, tolerance
from petrun.inference.stored_base import StoredBase
from petrun.interop.peft import logits_process
from petrun.parallel.context import eager
from petrun.tensors import Array
from petrun.typing import JsonObject

BY_PEFT, BY_PETRUN = ("peft", "vllm"), ("mindpet", "petrun")
"""Kinds of files whose logits peft computes, and those that petrun reads back itself."""
_TOLERANCE = 1e-3
_TRIES = "import torch, transformers, peft"


@dataclass(frozen=True, kw_only=True)
class ExportCheck:
    """Compares base + delta with an export on the disk. What was written is removed where this raises."""

    base: StoredBase
    kind: str
    """A kind of BY_PEFT or BY_PETRUN."""
    alpha: float | None = None
    """Of a LoRA that is written for MindPet, whose files do not hold it."""
    peft_python: str | None = None
    tolerance: float | None = None
    probe: str | None = None
    """A text file with a row in each line; None: token ids drawn from a seed."""

    def check(self, delta: Delta, written: Path) -> None:
        """Print how the logits differ. `delta`: in the names of the net. Raises DeltaError where they differ by more than the tolerance."""
        probe = probe_delta(self.base, delta, self.probe)
        by_peft = self.kind in BY_PEFT
        found = self._by_peft(probe, written) if by_peft else self._by_petrun(probe, written)
        probe.compare(
            found,
            "check",
            f"{written}, read by {'peft' if by_peft else 'petrun'},",
            tolerance(self.tolerance, _TOLERANCE, probe.largest),
            "Write it again; where it stays so, keep the delta as it is and report the base's family and the algorithm.",
        )

    def _by_petrun(self, probe: Probe, written: Path) -> list[Array]:
        again = self.base.fit(open_delta(str(written), self.alpha), self.alpha)
        model = ModelConfig(base=str(self.base.path), family=self.base.family, fresh_head=probe.classes is not None)
        loaded = open_base(model, probe.device, task=probe.task, num_labels=probe.classes, seed=0)
        with eager():
            return logits_with(loaded, again, probe.rows)

    def _by_peft(self, probe: Probe, written: Path) -> list[Array]:
        request = {
            "base": str(self.base.path.resolve()),
            "adapter": str(written.resolve()),
            "class": _class_of(probe),
            "labels": probe.classes,
            "rows": [row.tolist() for row in probe.rows],
        }
        return logits_of_peft(self.peft_python or sys.executable, request)


def require_check(kind: str, base: StoredBase, peft_python: str | None) -> None:
    """Raises ConfigError for what cannot be checked, and SetupError for packages that are missing, before anything is written."""
    if kind not in (*BY_PEFT, *BY_PETRUN):
        raise ConfigError(
            f"--check: nothing here computes logits with a file for {kind}",
            hint=f"It checks --to {', '.join((*BY_PEFT, *BY_PETRUN))}.",
        )
    if kind in BY_PETRUN:
        return
    if not base.path.is_dir() or base.strategy is not None or base.quantisation is not None:
        raise ConfigError(
            f"--check: peft loads its base from a Hugging Face folder in full precision, and {base.path} is none",
            hint="Leave --check out.",
        )
    python = peft_python or sys.executable
    try:
        done = subprocess.run([python, "-c", _TRIES], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise SetupError(f"--peft-python {python}: cannot be run: {error.strerror or error}") from error
    if done.returncode:
        raise SetupError(
            f"--check: {python} has no peft with torch and transformers: {_last_line(done.stderr)}".rstrip(": "),
            hint="pip install 'petrun[interop]', or name another Python by --peft-python.",
        )


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "")


def logits_of_peft(python: str, request: JsonObject) -> list[Array]:
    """Answer a request as petrun/interop/peft/logits_process.py describes it. Raises SetupError with what the process said."""
    with answered("peft", python, logits_process, request, "answer.npz") as answer, np.load(answer) as arrays:
        return [arrays[str(number)] for number in range(len(arrays.files))]


def _class_of(probe: Probe) -> str:
    """Return the class of transformers for the task."""
    if probe.classes is not None:
        return "AutoModelForTokenClassification" if probe.task == TOKENS else "AutoModelForSequenceClassification"
    seq2seq = probe.base.raw.get("is_encoder_decoder", False)
    return "AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM"
