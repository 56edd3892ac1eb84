"""How --parallel is read, and how the ranks of a job are laid out."""

from dataclasses import asdict

import pytest

from petrun.config.load import load_run_config
from petrun.config.schema import ParallelConfig
from petrun.errors import ConfigError
from petrun.parallel.layout import KEYS, Layout, complete_layout, parse_layout


def test_text_to_keys():
    assert parse_layout("dp=2,tp=4,pp=1,zero=1") == {"dp": 2, "tp": 4, "pp": 1, "zero": 1}
    assert parse_layout(" TP = 2 , sequence=true, micro_batches=4,") == {"tp": 2, "sequence": True, "micro_batches": 4}
    assert parse_layout("auto") == {"auto": True}


def test_the_settings_are_the_request():
    assert set(KEYS) <= set(ParallelConfig.model_fields)
    asked = ParallelConfig(dp=2, tp=4, pp=2, zero=3, micro_batches=6, sequence=True)
    assert {key: getattr(asked, key) for key in KEYS} == asdict(complete_layout(asked, 16))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names nothing"),
        ("dp", "'dp': must be a whole number"),
        ("dp=two", "'dp=two': must be a whole number"),
        ("dp=-2", "'dp=-2': must be a whole number"),
        ("dp=²", "must be a whole number"),
        ("mp=4", "'mp=4': no key of a layout. Did you mean"),
        ("zer=1", "'zer=1': no key of a layout. Did you mean zero?"),
        ("dp=2,tp=2,dp=4", "'dp=4': dp stands twice"),
        ("sequence=maybe", "'sequence=maybe': must be true or false"),
    ],
)
def test_wrong_texts(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_layout(text)
    assert message in caught.value.message and "--parallel" in caught.value.message and caught.value.hint


def test_every_problem_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_layout("dp=x,tq=4")
    assert "'dp=x'" in caught.value.message and "'tq=4'" in caught.value.message


def test_what_is_left_out_follows_from_the_size_of_the_job():
    assert complete_layout(ParallelConfig(tp=4), 8) == Layout(dp=2, tp=4)
    assert complete_layout(ParallelConfig(tp=2, pp=2), 8) == Layout(dp=2, tp=2, pp=2, zero=0, micro_batches=2)
    assert complete_layout(ParallelConfig(), 8) == Layout(dp=8) and not complete_layout(ParallelConfig(), 8).split
    assert complete_layout(ParallelConfig(dp=4, tp=2, zero=1), 8).world == 8
    assert complete_layout(ParallelConfig(pp=2, micro_batches=6), 4).micro_batches == 6


@pytest.mark.parametrize(
    ("world", "keys", "message"),
    [
        (8, {"dp": 2, "tp": 2}, "dp=2 * tp=2 * pp=1 = 4 ranks: the job has 8"),
        (8, {"tp": 3}, "tp=3 * pp=1: does not divide the job's 8"),
        (4, {"tp": 8}, "tp=8 * pp=1: does not divide the job's 4"),
        (8, {"tp": 8, "zero": 1}, "zero=1: splits over dp ranks"),
        (8, {"zero": 4}, "zero=4: must be 0, 1, 2 or 3"),
        (8, {"micro_batches": 4}, "only a pipeline has them"),
        (8, {"pp": 4, "micro_batches": 2}, "a pipeline of pp=4 stages needs at least 4"),
        (8, {"sequence": True}, "tokens are split over tp ranks"),
        (8, {"dp": 0}, "dp=0: must be at least 1"),
    ],
)
def test_layouts_that_no_job_can_have(world, keys, message):
    with pytest.raises(ConfigError) as caught:
        complete_layout(ParallelConfig.model_construct(**keys), world)
    assert message in caught.value.message and caught.value.exit_code == 2


def test_ranks_have_their_places():
    layout = Layout(dp=2, tp=2, pp=2, zero=0, micro_batches=2)
    assert [layout.coordinates(rank) for rank in range(8)] == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1),
    ]  # fmt: skip
    assert str(layout) == "dp=2,tp=2,pp=2,zero=0,micro_batches=2"
    assert str(Layout(dp=1, tp=2, sequence=True)) == "dp=1,tp=2,pp=1,zero=0,sequence=true"


def test_what_is_written_is_read_again():
    for layout in (Layout(dp=8), Layout(dp=2, tp=4, sequence=True), Layout(dp=2, tp=2, pp=2, zero=3, micro_batches=6)):
        assert complete_layout(ParallelConfig(**parse_layout(str(layout))), layout.world) == layout


def test_flags_and_keys_of_the_configuration():
    flags = {f"parallel.{key}": ("--parallel", value) for key, value in parse_layout("dp=2,tp=4").items()}
    done = load_run_config(None, {**flags, "parallel.recompute": ("--recompute", "full")}, ["parallel.tp=2"])
    assert (done.config.parallel.dp, done.config.parallel.tp, done.config.parallel.recompute) == (2, 2, "full")
    assert done.origins["parallel.dp"] == "--parallel"
    with pytest.raises(ConfigError, match=r"--recompute: 'ful' is not valid.*Did you mean full"):
        load_run_config(None, {"parallel.recompute": ("--recompute", "ful")}, [])
    with pytest.raises(ConfigError, match="--parallel: 0 is not valid: must be at least 1"):
        load_run_config(None, {"parallel.dp": ("--parallel", 0)}, [])
