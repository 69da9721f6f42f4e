"""Step metrics beside Prometheus: ``LEYDEN_LEARNER_SINKS``. A package is imported where it is used."""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from leyden_learner.settings import LearnerSettings
from leyden_learner.sinks.background import BackgroundSink
from leyden_learner.sinks.base import OpenSink, Point, RunInfo, Sink
from leyden_platform.settings import ServiceSettings
from leyden_schemas import cause_id

_USER = re.compile(r"://[^/@\s]*@")


class SinkMissing(RuntimeError):
    """A sink was asked for whose package is not installed."""


class Sinks:
    """All sinks of a learner."""

    def __init__(self, sinks: Sequence[BackgroundSink] = (), now_s: Callable[[], float] = time.time) -> None:
        self._sinks, self._now_s = sinks, now_s

    def offer(self, step: int, measured: Mapping[str, float], *, again: bool = False) -> None:
        """Show a committed step; never waits and never fails."""
        finite = {name: float(value) for name, value in measured.items() if math.isfinite(value)}
        for sink in self._sinks:
            sink.offer(Point(step, finite, self._now_s(), again))

    def close(self, timeout_s: float = 5.0) -> None:
        """Wait for what is in hand, up to ``timeout_s`` for all of them."""
        deadline_s = time.monotonic() + timeout_s
        for sink in self._sinks:
            sink.close()
        for sink in self._sinks:
            sink.wait(deadline_s)


def open_sinks(settings: LearnerSettings) -> Sinks:
    """The sinks that the settings name. Raises ``SinkMissing``; whatever else fails is counted later."""
    for name in settings.sinks:
        if find_spec(name) is None:
            raise SinkMissing(
                f"LEYDEN_LEARNER_SINKS has {name}, which is not installed: pip install 'leyden[{name}]'"
            )
    info = _info(settings)
    openers = {name: _opener(name, settings, info) for name in settings.sinks}
    return Sinks([BackgroundSink(name, settings.policy, opener) for name, opener in openers.items()])


def _info(settings: LearnerSettings) -> RunInfo:
    shared = {"database", *ServiceSettings.model_fields}
    run_id = cause_id("sink", settings.tenant, settings.policy, settings.run).hex
    told = settings.model_dump(mode="json", exclude=shared)
    config = {name: _without_password(value) for name, value in told.items()}
    return RunInfo(run_id, settings.policy, settings.run, config)


def _without_password(value: Any) -> Any:
    """URLs without who may use them: a run's settings are shown to others."""
    if isinstance(value, list):
        return [_without_password(item) for item in value]
    return _USER.sub("://", value) if isinstance(value, str) else value


def _opener(name: str, settings: LearnerSettings, info: RunInfo) -> OpenSink:
    def tensorboard(first_step: int) -> Sink:
        from leyden_learner.sinks.tensorboard import TensorBoardSink

        return TensorBoardSink(settings.tensorboard_dir, info, first_step)

    def wandb(first_step: int) -> Sink:
        from leyden_learner.sinks.wandb import WandbSink

        return WandbSink(
            info,
            project=settings.wandb_project,
            entity=settings.wandb_entity,
            mode=settings.wandb_mode,
            folder=settings.wandb_dir,
        )

    def mlflow(first_step: int) -> Sink:
        from leyden_learner.sinks.mlflow import MlflowSink

        return MlflowSink(settings.mlflow_uri, settings.mlflow_experiment, info)

    return {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}[name]


__all__ = ["SinkMissing", "Sinks", "open_sinks"]
