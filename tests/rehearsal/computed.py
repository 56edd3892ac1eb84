"""Jobs of tiny bases, trained as one rank and compiled for all: what the tests of the computing rehearsal share."""

from pathlib import Path

from petrun.config.load import cache_folder
from petrun.parallel.layout import parse_layout
from petrun.rehearsal.compute_job import prepare
from petrun.rehearsal.job import RankJob, card_count, read_settings
from petrun.rehearsal.shapes import batch_shapes
from petrun.rehearsal.stub_cann import ensure_stub
from petrun.training.setup.resolve_layout import resolve_layout
from tests.tiny import write_base

SIZES = {
    "llama": {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 48, "vocab_size": 64},
    "bert": {"hidden_size": 32, "num_attention_heads": 8, "intermediate_size": 48, "vocab_size": 64},
    "gpt2": {"n_embd": 32, "n_head": 8, "n_inner": 48, "vocab_size": 64},
}  # fmt: skip
STEPS = 3


def compiled_job(folder, family, layout, flags=None, base=None):
    """Return (the run of one rank, the compiled ranks, the layout). `flags`: setting -> value; `base`: fields of config.json."""
    write_base(folder / "base", family, **SIZES[family], **(base or {}))
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
    return (*prepare(job, ensure_stub(cache_folder()), found, own, debug=True), found)
