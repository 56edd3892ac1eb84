"""The process that computes logits with peft: torch and MindSpore do not share one. It imports nothing of petrun, as its Python may be
another.

    python -c "..." REQUEST ANSWER

REQUEST is a JSON file: {"base", "adapter", "class" of transformers, "labels" of a classifier or null, "rows": [[token ids]]}. ANSWER is a
.npz file with one array of logits for each row, named by its number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def logits(request: dict[str, Any]) -> dict[str, Any]:
    """Load base and adapter from local files alone, in float32, and compute the logits row by row."""
    import torch
    import transformers
    from peft import PeftModel

    more = {} if request["labels"] is None else {"num_labels": request["labels"], "ignore_mismatched_sizes": True}
    base = (
        getattr(transformers, request["class"]).from_pretrained(request["base"], local_files_only=True, **more).float()
    )
    model = PeftModel.from_pretrained(base, request["adapter"]).float().eval()
    found = {}
    with torch.no_grad():
        for number, row in enumerate(request["rows"]):
            ids = torch.tensor([row])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if base.config.is_encoder_decoder:
                inputs["decoder_input_ids"] = ids
            values = model(**inputs).logits[0].float().numpy()
            # Without the positions of virtual tokens.
            found[str(number)] = values[-len(row) :] if values.ndim == 2 else values
    return found


def main(request: str, answered: str) -> None:
    """Answer a request."""
    np.savez(answered, **logits(json.loads(Path(request).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main(*sys.argv[1:])
