"""Jobs whose operators cannot be split, refused when the step is built: nothing is compiled for that."""

import pytest

from petrun.config.load import load_run_config
from petrun.errors import ConfigError
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.runs.ready import make_ready

from ..tiny import ORDERS, REVIEWS, write_base, write_rows


@pytest.mark.parametrize(
    ("algo", "layout", "sets", "reason"),
    [
        ("lora+r_drop", Layout(2, 2), ["delta.dropout=0.1"], "compares two whole distributions"),
        ("adalora", Layout(2, 2), [], "weighs whole matrices"),
        ("lora", Layout(2, 2), ["delta.variant=dora"], "norms of whole rows"),
        ("lora", Layout(2, 1, 2, 0, 2), ["train.accumulate=4"], "--accumulate 4: a pipeline adds up its micro-batches"),
        ("prompt", Layout(2, 1, 2, 0, 2), [], "in the layers of stage 0, 1 of 0 to 1 nothing trains"),
        ("lora", Layout(2, 2, 2, 0, 2, True), [], "tokens are split with dp and tp alone"),
        ("lora", Layout(2, 2, zero=1, sequence=True), [], "tokens are split with dp and tp alone"),
        ("adapter", Layout(2, 2, sequence=True), [], "layers.0.attn.o: AdapterDense does not split tokens"),
        ("prompt", Layout(2, 2, sequence=True), [], "rows with virtual tokens are not split"),
    ],
)
def test_what_cannot_be_split_is_refused_with_its_reason(tmp_path, pynative, algo, layout, sets, reason):
    refused(tmp_path, "llama", algo, layout, sets, reason)


@pytest.mark.parametrize(
    ("algo", "stages", "reason"),
    [
        ("lora", 3, "pp=3 does not divide 2 layers"),
        ("prompt", 2, "in the layers of stage 0, 1 of 0 to 1 nothing trains"),
    ],
)
def test_stages_of_bert_that_cannot_be(tmp_path, pynative, algo, stages, reason):
    """Its classifier trains with every method, but that is not enough."""
    refused(tmp_path, "bert", algo, Layout(2, 1, stages, 0, stages), [], reason)


def refused(folder, family, algo, layout, sets, reason):
    rows = write_rows(folder / "rows.jsonl", REVIEWS if family == "bert" else ORDERS)
    flags = {
        "model.base": ("--base", str(write_base(folder / "base", family))),
        "data.path": ("--data", (str(rows),)),
        "algo": ("--algo", algo),
        "device": ("--device", "cpu"),
    }
    resolved = load_run_config(None, flags, [*sets, "data.eval_split=0"])
    with pytest.raises(ConfigError, match=reason):
        make_ready(resolved, None, Device("cpu", "float32", None), layout, scored=False)
