"""Jobs of tiny bases, trained as one rank and compiled for all: what the tests of the computing rehearsal share."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from petrun.config.load import cache_folder
from petrun.parallel.layout import Layout, parse_layout
from petrun.rehearsal.compute_job import prepare
from petrun.rehearsal.job import RankJob, card_count, read_settings
from petrun.rehearsal.one_rank import RESULT, read_one_rank
from petrun.rehearsal.rank_state import read_rank
from petrun.rehearsal.shapes import batch_shapes
from petrun.rehearsal.stub_cann import ensure_stub
from petrun.training.setup.resolve_layout import resolve_layout
from tests.tiny import write_base

SIZES = {
    "llama": {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 48, "vocab_size": 64},
    "bert": {"hidden_size": 32, "num_attention_heads": 8, "intermediate_size": 48, "vocab_size": 64},
    "roberta": {"hidden_size": 32, "num_attention_heads": 8, "intermediate_size": 48, "vocab_size": 64},
    "gpt2": {"n_embd": 32, "n_head": 8, "n_inner": 48, "vocab_size": 64},
    "opt": {"hidden_size": 32, "word_embed_proj_dim": 32, "num_attention_heads": 8, "ffn_dim": 48, "vocab_size": 64},
    "t5": {"d_model": 32, "num_heads": 8, "d_kv": 4, "d_ff": 48, "vocab_size": 64},
    "bloom": {"hidden_size": 32, "n_head": 8, "vocab_size": 64},
    "glm": {
        "hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4, "intermediate_size": 48, "vocab_size": 64,
    },
}  # fmt: skip
STEPS = 3
LAYOUT = "layout.json"


def compiled_job(folder, family, layout, flags=None, base=None):
    """Return (the run of one rank, the compiled ranks, the layout). `flags`: setting -> value; `base`: fields of config.json."""
    write_base(folder / "base", family, **{**SIZES[family], **(base or {})})
    if "model.dtype" in (flags or {}):
        _lessen(folder / "base" / "model.safetensors")
    settings = {
        "model.base": str(folder / "base"),
        "model.dtype": "float32",
        "algo": "lora",
        "data.seq_len": 16,
        "train.batch_size": 2,
        # No warm-up: values that hardly move would hide what differs.
        "optim.warmup": 0.0,
        **{f"parallel.{key}": value for key, value in parse_layout(layout).items()},
        **(flags or {}),
    }
    given = {key: ("--set", value) for key, value in settings.items()}
    resolved, start = read_settings(None, given, [])
    found = resolve_layout(resolved.config, card_count(resolved.config, None))
    job = RankJob(
        recipe=None,
        flags=given,
        sets=[],
        level=0,
        writes_strategy=found.split,
        shapes=batch_shapes(resolved, start, found),
        cards=found.world,
        steps=STEPS,
    )
    own = Path(folder) / "job"
    own.mkdir()
    (own / LAYOUT).write_text(json.dumps(asdict(found)))
    return (*prepare(job, ensure_stub(cache_folder()), found, own, debug=True), found)


def _lessen(file):
    """Halve the matrices of a base, whose random ones are larger than trained ones are: what half precision rounds grows with each."""
    tensors = load_file(file)
    save_file(
        {name: value * np.float32(0.5) if value.ndim > 1 else value for name, value in tensors.items()},
        file,
        {"format": "pt"},
    )


def stored_job(folder):
    """Return what `compiled_job` left in a folder."""
    own = folder / "job"
    layout = Layout(**json.loads((own / LAYOUT).read_text()))
    return read_one_rank(own / RESULT), [read_rank(own / f"rank_{rank}", rank) for rank in range(layout.world)], layout
