"""What a sink of step metrics is: TensorBoard, Weights & Biases, MLflow, one a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Point:
    """What one committed step measured, finite numbers alone.

    ``again`` is the step that a resumed learner goes on from: a crash may have come before the sink had it.
    """

    step: int
    metrics: Mapping[str, float]
    at_s: float
    again: bool = False


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run that points belong to; a resumed learner has the same ``id`` again."""

    id: str
    policy: str
    run: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.policy}/{self.run}"


class Sink(Protocol):
    """Somewhere that shows points. Called from one thread; may block, and raise whatever its client does."""

    def write(self, point: Point) -> None:
        """Show a point; one that it has already is not shown twice."""
        ...

    def close(self) -> None:
        """Write what is in hand."""
        ...


class OpenSink(Protocol):
    """Opens a sink whose first point will be of ``first_step``."""

    def __call__(self, first_step: int) -> Sink: ...
