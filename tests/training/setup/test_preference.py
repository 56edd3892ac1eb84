"""What the net that a run begins from says of rows of preference, and with which graphs."""

from petrun.config.load import load_run_config
from petrun.parallel.context import setup
from petrun.parallel.layout import Layout
from petrun.training.setup.evaluation import evaluator_of
from petrun.training.setup.resolve import resolve_with_layout
from petrun.training.setup.training_setup import build_training
from tests.tiny import write_rows


def test_evaluations_go_on_with_the_graphs_that_asked_the_base(place, pynative):
    write_rows(place / "pairs.jsonl", [{"prompt": "1+2=", "chosen": "3", "rejected": str(i)} for i in (12, 5)])
    files = ["pairs.jsonl"]
    flags = {"model.base": ("--base", "gpt2"), "data.path": ("--data", files), "data.eval_path": ("--eval-data", files)}
    given = load_run_config(None, {**flags, "train.steps": ("--steps", 1)}, [])
    built = build_training(resolve_with_layout(given, None, setup("cpu"), Layout()), scored=False)
    sources, net = built.resolved.sources, built.assembled.loaded
    evaluator = evaluator_of(built.config, net, sources)
    assert sources.scorer is not None and evaluator.scorer is sources.scorer
    runner = sources.scorer._runner
    # The delta is at its first values, which change nothing.
    assert evaluator.score("eval")["reward_margin"] == 0.0 and sources.scorer._runner is runner
