"""The process that computes COMET: torch and MindSpore do not share one. It imports nothing of petrun, as its Python may be another.

    python -c "..." REQUEST ANSWER

REQUEST and ANSWER are JSON files: {"checkpoint", "class", "layer_transformation", "encoder", "batch_size", "samples": [{"src", "mt",
"ref"}]} and {"version", "scores"}, or {"error"}.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load the model from local files alone, and score the samples."""
    from comet.models import str2model

    name = request["class"]
    if name not in str2model:
        return {"error": f"hparams.yaml: class_identifier is {name}, and this version knows {', '.join(str2model)}"}
    # As comet.load_from_checkpoint calls it, but for the encoder, which that takes from the network where the checkpoint names it so.
    more = {"layer_transformation": "softmax"} if request["layer_transformation"] == "sparsemax_patch" else {}
    model = str2model[name].load_from_checkpoint(
        request["checkpoint"],
        map_location="cpu",
        strict=False,
        load_pretrained_weights=False,
        local_files_only=True,
        pretrained_model=request["encoder"],
        **more,
    )
    samples = request["samples"]
    if model.requires_references() and "ref" not in samples[0]:
        return {"error": f"a {name} compares translations with references"}
    found = model.predict(samples, batch_size=request["batch_size"], gpus=0, num_workers=0, progress_bar=False)
    return {"version": version("unbabel-comet"), "scores": [float(score) for score in found.scores]}


def main(request: str, answered: str) -> None:
    found = answer(json.loads(Path(request).read_text(encoding="utf-8")))
    Path(answered).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
