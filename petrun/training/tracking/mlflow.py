"""MLflow: the store of MLFLOW_TRACKING_URI, else a file store in RUN/mlruns, which needs no server."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from petrun.config.load import environment
from petrun.training.tracking.tracker import TrackedRun, Tracker, TrackerKind

_EXPERIMENT = "petrun"
_MOST_PARAMETERS = 100
"""As many as MLflow takes at a time."""
_MOST_CHARACTERS = 500


class _MLflow:
    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        given = environment("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(given or f"sqlite:///{(run.folder / 'mlflow.db').absolute()}")
        experiment = self._client.get_experiment_by_name(_EXPERIMENT)
        number = (
            experiment.experiment_id
            if experiment is not None
            else self._client.create_experiment(
                _EXPERIMENT, None if given else (run.folder / "mlartifacts").absolute().as_uri()
            )
        )
        self._run = self._client.create_run(number, run_name=run.name).info.run_id
        parameters = (Param(key, str(value)[:_MOST_CHARACTERS]) for key, value in run.settings.items())
        while some := list(islice(parameters, _MOST_PARAMETERS)):
            self._client.log_batch(self._run, params=some)

    def log(self, values: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _open(run: TrackedRun) -> Tracker:
    return _MLflow(run)


MLFLOW = TrackerKind(package="mlflow", extra="mlflow", open=_open)
