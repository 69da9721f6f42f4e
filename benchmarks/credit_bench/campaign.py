"""All runs that are asked for, several at a time, each kept as soon as it is done: nothing runs twice."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from credit_bench.arms import Arm
from credit_bench.effort import Effort, Result

SPEC = 1
"""Raise it when the meaning of a run changes, so that kept ones are run again."""


@dataclass(frozen=True)
class Job:
    """One run to make."""

    environment: str
    subject: str
    arm: Arm
    effort: Effort
    seed: int

    @property
    def key(self) -> str:
        """Equal for runs that would be the same; a name alone changes nothing."""
        parts = [SPEC, self.environment, asdict(self.arm), asdict(self.effort), self.seed]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class Kept:
    """Finished runs in a JSON file, written anew after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, job: Job) -> Result | None:
        """The run, if it was made before."""
        found = self._runs.get(job.key)
        return Result(**found["result"]) if found else None

    def add(self, job: Job, result: Result) -> None:
        """Keep a run."""
        self._runs[job.key] = {"job": asdict(job), "result": asdict(result)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".unfinished")
        beside.write_text(json.dumps(self._runs, indent=1) + "\n")
        beside.rename(self._path)


def run_all(
    jobs: Sequence[Job], kept: Kept, *, processes: int, report: Callable[[Job, Result], None]
) -> list[tuple[Job, Result]]:
    """Every job's result, in the order of the jobs. A run that fails ends it; finished ones are kept."""
    results = {job.key: found for job in jobs if (found := kept.get(job)) is not None}
    missing = {job.key: job for job in jobs if job.key not in results}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(_made, job): job for job in missing.values()}
        for done in as_completed(running):
            job = running[done]
            results[job.key] = done.result()
            kept.add(job, results[job.key])
            report(job, results[job.key])
    return [(job, results[job.key]) for job in jobs]


def _made(job: Job) -> Result:
    from credit_bench.environments import ENVIRONMENTS
    from credit_bench.training import train

    with tempfile.TemporaryDirectory(prefix="leyden-credit-") as folder:
        return train(ENVIRONMENTS[job.environment], job.arm, job.effort, seed=job.seed, folder=Path(folder))
