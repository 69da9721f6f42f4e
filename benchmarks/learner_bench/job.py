"""What a subject is asked to do and what it answers, as JSON files between environments.

Needs nothing but the standard library, torch apart, because it is imported in every subject's environment.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from learner_bench.workload import Rollout

T = TypeVar("T")

CLIP_LOW, CLIP_HIGH, GRAD_CLIP = 0.2, 0.28, 1.0
BETAS = (0.9, 0.99)
_HELD, _PEAK = "VmRSS", "VmHWM"
_FORGET = "5"
"""Makes the kernel begin anew with the peak of a process, see proc(5)."""


@dataclass(frozen=True, slots=True)
class Job:
    """One subject over one batch: a step to warm up, then ``runs`` that count, all on the same batch."""

    model: str
    rollouts: list[Rollout]
    logprobs: list[list[list[float]]]
    """Of the sampled tokens under the model, by rollout and turn."""
    packed: bool
    micro_batch_tokens: int
    threads: int
    device: str
    precision: str
    runs: int
    lr: float
    scratch: str
    parameters: int = 0
    """Of the model."""

    def write(self, path: Path) -> None:
        """Put it where the subject finds it."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Job":
        """As it was written."""
        values = json.loads(path.read_text())
        values["rollouts"] = [
            Rollout(**(each | {"turns": [(start, stop) for start, stop in each["turns"]]}))
            for each in values["rollouts"]
        ]
        return cls(**values)


@dataclass(slots=True)
class Answer:
    """Times of the steps that count, in seconds, and what shows that the step was the same one."""

    step_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    memory_bytes: int = 0
    """The most that the process held beyond what it held before the model was loaded."""
    loss: float = 0.0
    grad_norm: float = 0.0
    """Of the first step, from the weights that all subjects begin with."""
    stages_s: dict[str, list[float]] = field(default_factory=dict)
    """Parts of a step, where the subject tells."""


class Meter:
    """Takes the times and the memory of a subject."""

    def __init__(self, device: str) -> None:
        self.answer, self._held, self._warm = Answer(), 0, False
        self._cuda: Any = None
        if device == "cuda":
            import torch

            self._cuda = torch.cuda

    def begin(self) -> None:
        """Everything is imported; the model is not loaded yet."""
        self._held = self._allocated(_HELD)

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step; the first one's time does not count."""
        self._forget_peak()
        began_s, computed_s = time.perf_counter(), _cpu()
        yield
        if self._warm:
            self.answer.step_s.append(self._now() - began_s)
            self.answer.cpu_s.append(_cpu() - computed_s)
        self.answer.memory_bytes = max(self.answer.memory_bytes, self._allocated(_PEAK) - self._held)

    def stepped(self) -> None:
        """The step is over with all that belongs to it."""
        self._warm = True

    def stage(self, name: str, seconds: float) -> None:
        """A part of the step at hand."""
        if self._warm:
            self.answer.stages_s.setdefault(name, []).append(seconds)

    def first(self, loss: float, grad_norm: float) -> None:
        """What the first step measured."""
        if not self._warm:
            self.answer.loss, self.answer.grad_norm = loss, grad_norm

    def _now(self) -> float:
        """The time when the device is done."""
        if self._cuda:
            self._cuda.synchronize()
        return time.perf_counter()

    def _forget_peak(self) -> None:
        if self._cuda:
            self._cuda.synchronize()
            self._cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text(_FORGET)

    def _allocated(self, what: str) -> int:
        if self._cuda:
            return int(self._cuda.memory_allocated() if what == _HELD else self._cuda.max_memory_allocated())
        return _status(what)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """A result and the seconds it took."""
    began_s = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began_s


def run(subject: Callable[[Job, Meter], None]) -> None:
    """``python -m learner_bench.<subject> JOB ANSWER``."""
    import torch

    job = Job.read(Path(sys.argv[1]))
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    meter = Meter(job.device)
    subject(job, meter)
    Path(sys.argv[2]).write_text(json.dumps(asdict(meter.answer)))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)
