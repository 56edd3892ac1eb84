"""Score translations by a local COMET model, in a process of its own. Nothing is fetched: what is missing is named before any work.

Source: Rei et al., "COMET: A Neural Framework for MT Evaluation", EMNLP 2020; the package unbabel-comet.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from petrun.cluster.processes.own_process import answered
from petrun.curation import comet_process
from petrun.errors import SetupError
from petrun.typing import JsonObject

_CHECKPOINT, _HPARAMS = Path("checkpoints", "model.ckpt"), "hparams.yaml"
_ENCODER_FILES = (("config.json",), ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt"))
_LINE = re.compile(r"""^(\w+):[ \t]*["']?([^\s"']+)["']?[ \t]*$""", re.MULTILINE)
_HAS_COMET = "import importlib.util, sys; sys.exit(importlib.util.find_spec('comet') is None)"
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class CometModel:
    """The files of a model, all of them there, and the Python that computes it."""

    checkpoint: Path
    kind: str
    """hparams.yaml's class_identifier, such as regression_metric."""
    layer_transformation: str
    encoder: Path
    """Folder of the encoder's config.json and tokenizer; its weights are in the checkpoint."""
    python: str

    def digest(self) -> str:
        """Return SHA-256 of the checkpoint."""
        found = hashlib.sha256()
        with self.checkpoint.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                found.update(block)
        return found.hexdigest()

    def __call__(self, samples: Sequence[JsonObject], batch_size: int) -> JsonObject:
        """Score samples of `src`, `mt` and perhaps `ref`. Returns `version` and `scores`. Raises SetupError."""
        asked = {
            "checkpoint": str(self.checkpoint),
            "class": self.kind,
            "layer_transformation": self.layer_transformation,
            "encoder": str(self.encoder),
            "batch_size": batch_size,
            "samples": list(samples),
        }
        with answered("COMET", self.python, comet_process, asked, "answer.json") as answer:
            found: JsonObject = json.loads(answer.read_text(encoding="utf-8"))
        if "error" in found:
            raise SetupError(
                f"COMET: {found['error']}",
                hint="With --predictions the rows' answers are the references; without, give a referenceless model.",
            )
        return found


def find_comet_model(model: str, encoder: str | None, python: str | None) -> CometModel:
    """Find the parts of a model. Raises SetupError, once, with all that is missing.

    Inputs: `model`, the folder that a COMET model is saved in, or its checkpoint; `encoder`, folder of its encoder (None: as hparams.yaml
    names it); `python`, a Python with the package unbabel-comet (None: this one).
    """
    given = Path(model).expanduser()
    checkpoint = given if given.suffix == ".ckpt" else given / _CHECKPOINT
    hparams = (checkpoint.parent.parent if given.suffix == ".ckpt" else given) / _HPARAMS
    missing = [f"{path}: no such file" for path in (checkpoint, hparams) if not path.is_file()]
    stated = _read_hparams(hparams) if hparams.is_file() else {}
    named = encoder or stated.get("pretrained_model")
    if hparams.is_file() and "class_identifier" not in stated:
        missing.append(f"{hparams}: has no class_identifier")
    if named is not None:
        missing += _missing_of_encoder(named)
    elif hparams.is_file():
        missing.append(f"{hparams}: has no pretrained_model, the encoder; --encoder FOLDER names it")
    missing += _missing_of_python(runs := python or sys.executable)
    if missing:
        raise SetupError(
            "\n".join(["COMET lacks:", *(f"  {each}" for each in missing)]),
            hint="A model's folder has checkpoints/model.ckpt and hparams.yaml; --encoder names the folder of its encoder.",
        )
    return CometModel(
        checkpoint=checkpoint.resolve(),
        kind=stated["class_identifier"],
        layer_transformation=stated.get("layer_transformation", ""),
        encoder=Path(str(named)).expanduser().resolve(),
        python=runs,
    )


def _read_hparams(path: Path) -> dict[str, str]:
    """Return the settings of hparams.yaml that are one word in a line of their own, as the package writes them."""
    return {match[1]: match[2] for match in _LINE.finditer(path.read_text(encoding="utf-8", errors="replace"))}


def _missing_of_python(python: str) -> list[str]:
    try:
        has_comet = subprocess.run([python, "-c", _HAS_COMET], capture_output=True, check=False).returncode == 0
    except OSError as error:
        return [f"--comet-python {python}: cannot be run: {error.strerror or error}"]
    if has_comet:
        return []
    return [
        f"{python}: has no package unbabel-comet; pip install unbabel-comet there, or name another by --comet-python"
    ]


def _missing_of_encoder(named: str) -> list[str]:
    folder = Path(named).expanduser()
    if not folder.is_dir():
        return [
            f"{named}: the encoder is no folder here, and would be fetched; --encoder FOLDER names its config.json and tokenizer"
        ]
    return [
        f"{folder}: holds no {' and no '.join(names)}"
        for names in _ENCODER_FILES
        if not any((folder / name).is_file() for name in names)
    ]
