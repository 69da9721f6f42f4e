"""MLflow: a tracking server, or a database such as ``sqlite:///mlflow.db``."""

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run

from leyden_learner.sinks.base import Point, RunInfo

_RUN_TAG = "leyden.run_id"
_LONGEST_PARAM = 500
_ALWAYS_THERE = "rollouts"


class MlflowSink:
    """The run that is tagged with this run's id, so that a resumed learner goes on with it."""

    def __init__(self, uri: str | None, experiment: str, info: RunInfo) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        run = self._known(experiment, info) or self._new(experiment, info)
        self._run_id: str = run.info.run_id
        history = self._client.get_metric_history(self._run_id, _ALWAYS_THERE)
        self._last = max((metric.step for metric in history), default=-1)
        self._client.update_run(self._run_id, status="RUNNING")

    def write(self, point: Point) -> None:
        """All metrics of a step at once; a step that the run has is left as it is."""
        if point.step <= self._last:
            return
        at_ms = int(point.at_s * 1000)
        values = [Metric(name, value, at_ms, point.step) for name, value in point.metrics.items()]
        self._client.log_batch(self._run_id, metrics=values)
        self._last = point.step

    def close(self) -> None:
        """Say that nobody writes to it now."""
        self._client.set_terminated(self._run_id)

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        return known.experiment_id if known else self._client.create_experiment(name)

    def _known(self, experiment: str, info: RunInfo) -> Run | None:
        found = self._client.search_runs(
            [self._experiment(experiment)], f"tags.`{_RUN_TAG}` = '{info.id}'", max_results=1
        )
        return found[0] if found else None

    def _new(self, experiment: str, info: RunInfo) -> Run:
        run = self._client.create_run(
            self._experiment(experiment), tags={_RUN_TAG: info.id}, run_name=info.name
        )
        params = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in info.config.items()]
        self._client.log_batch(run.info.run_id, params=params)
        return run
