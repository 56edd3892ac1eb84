"""A tracker gets the figures of the log; what it raises is said once and never reaches the run."""

import pytest

from petrun.training.tracking.tracker import GuardedTracker, TrackedRun, TrackerKind, figures_of, flat

STEP = {"step": 3, "epoch": 0.5, "loss": 2.0, "lr": 0.1, "memory": None}


class Recording:
    """Keeps what it gets; fails at a step, or at the end."""

    def __init__(self, fails_at=None, fails_to_close=False):
        self.seen, self.fails_at, self.fails_to_close = [], fails_at, fails_to_close

    def log(self, values, step):
        if step == self.fails_at:
            raise ConnectionResetError("the server is gone\nand more lines")
        self.seen.append((step, values))

    def close(self):
        if self.fails_to_close:
            raise ValueError("cannot flush")


def guarded(tracker, tmp_path):
    def open_it(run):
        if isinstance(tracker, Exception):
            raise tracker
        return tracker

    kind = TrackerKind(package="x", extra="x", open=open_it)
    return GuardedTracker("mine", kind, TrackedRun(name="run", folder=tmp_path, settings={}))


def test_figures_have_names_by_what_they_are_of():
    assert figures_of(STEP) == {"train/epoch": 0.5, "train/loss": 2.0, "train/lr": 0.1}
    assert figures_of({"step": 3, "epoch": 1.0, "evaluation": {"loss": 1.0, "bleu": None}}) == {"eval/loss": 1.0}
    assert figures_of({"step": 1, "loss": float("nan"), "grad_norm": float("inf")}) == {}


def test_settings_are_flat_and_those_not_set_are_left_out():
    assert flat({"algo": "lora", "delta": {"rank": 8, "target": None}}) == {"algo": "lora", "delta.rank": 8}


def test_a_failure_is_said_once_and_the_tracker_gets_nothing_more(tmp_path, capsys):
    tracker = Recording(fails_at=2)
    guard = guarded(tracker, tmp_path)
    for step in (1, 2, 3, 4):
        guard.note({**STEP, "step": step})
    guard.close()
    assert [step for step, _ in tracker.seen] == [1]
    assert (
        capsys.readouterr().out
        == "tracker mine: ConnectionResetError: the server is gone; the run goes on without it\n"
    )


def test_failures_at_the_start_and_at_the_end(tmp_path, capsys):
    guard = guarded(PermissionError("no key"), tmp_path)
    guard.note(STEP)
    guard.close()
    guarded(Recording(fails_to_close=True), tmp_path).close()
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "tracker mine: PermissionError: no key; the run goes on without it",
        "tracker mine: ValueError: cannot flush; the run goes on without it",
    ]


def test_the_user_still_ends_a_run_inside_a_tracker(tmp_path):
    class Waiting(Recording):
        def log(self, values, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(Waiting(), tmp_path).note(STEP)
