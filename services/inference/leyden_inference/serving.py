"""The versions that take requests now, by name."""

from dataclasses import dataclass

import structlog

from leyden_inference import metrics
from leyden_inference.engine import Engine, Runner
from leyden_inference.errors import UnknownModel
from leyden_inference.loading import LoadedModel
from leyden_inference.versions import Announced, resolve

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A loaded version and where its sequences run."""

    name: str
    model: LoadedModel
    runner: Runner


class Serving:
    """What is loaded. Used from the event loop only."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.announced = Announced()
        self._served: dict[str, Served] = {}

    @property
    def names(self) -> list[str]:
        """Loaded names, sorted."""
        return sorted(self._served)

    def served(self) -> list[Served]:
        """Everything loaded."""
        return [self._served[name] for name in self.names]

    def add(self, name: str, model: LoadedModel) -> None:
        """Let a version take requests."""
        runner = self.engine.install(name, model.decoder, model.eos)
        self._served[name] = Served(name, model, runner)
        self._measure(name, "loaded")

    def remove(self, name: str) -> None:
        """Let a version take no more requests; those it has finish."""
        self.engine.retire(self._served.pop(name).runner)
        self._measure(name, "unloaded")

    def find(self, ref: str) -> Served:
        """The version that a request's ``model`` means. Raises ``UnknownModel``."""
        name = resolve(ref, self._served, self.announced.aliases)
        if name is None:
            metrics.REFUSED.labels("unknown_model").inc()
            raise UnknownModel(ref, self.names)
        return self._served[name]

    def idle_s(self, name: str) -> float:
        """Seconds since this version last had a request."""
        return self._served[name].runner.idle_s

    def _measure(self, name: str, action: str) -> None:
        policy = name.rpartition("@")[0] or name
        count = sum((other.rpartition("@")[0] or other) == policy for other in self._served)
        metrics.LOADED.labels(policy).set(count)
        metrics.SWAPS.labels(action).inc()
        log.info("version_swapped", action=action, model=name, loaded=self.names)
