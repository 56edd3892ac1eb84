"""Jobs whose operators cannot be split, refused when the step is built: nothing is compiled for that."""

import pytest

from petrun.config.load import load_run_config
from petrun.errors import ConfigError
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.runs.ready import make_ready

from ..tiny import ORDERS, write_base, write_rows


@pytest.mark.parametrize(
    ("algo", "layout", "sets", "reason"),
    [
        ("lora+r_drop", Layout(2, 2), ["delta.dropout=0.1"], "compares two whole distributions"),
        ("adalora", Layout(2, 2), [], "weighs whole matrices"),
        ("lora", Layout(2, 2), ["delta.variant=dora"], "norms of whole rows"),
        ("lora", Layout(2, 2), ["parallel.offload=optimizer"], "keeps the optimizer's state on the card"),
        ("lora", Layout(2, 1, 2, 0, 2), ["train.accumulate=4"], "--accumulate 4: a pipeline adds up its micro-batches"),
        ("prompt", Layout(2, 1, 2, 0, 2), [], "on stage 1 of 0 to 1 nothing trains"),
        ("lora", Layout(2, 2, sequence=True), [], "split sequences"),
    ],
)
def test_what_cannot_be_split_is_refused_with_its_reason(tmp_path, pynative, algo, layout, sets, reason):
    rows = write_rows(tmp_path / "rows.jsonl", ORDERS)
    flags = {
        "model.base": ("--base", str(write_base(tmp_path / "base", "llama"))),
        "data.path": ("--data", (str(rows),)),
        "algo": ("--algo", algo),
        "device": ("--device", "cpu"),
    }
    resolved = load_run_config(None, flags, [*sets, "data.eval_split=0"])
    with pytest.raises(ConfigError, match=reason):
        make_ready(resolved, None, Device("cpu", "float32", None), layout, scored=False)
