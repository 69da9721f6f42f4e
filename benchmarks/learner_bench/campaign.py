"""Every subject over every case, each in a process and an environment of its own, one after the other."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway_bench.peers import CannotInstall
from rich.console import Console

from learner_bench.environments import ROOT, TRL, VERL, Environment, ensure
from learner_bench.job import Answer, Job
from learner_bench.workload import Lengths, batch, describe

_BENCHMARKS = Path(__file__).parents[1]
_DEADLINE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Subject:
    """Who computes a step: a module run by an interpreter, with rows packed or padded."""

    name: str
    module: str
    packed: bool
    environment: Environment | None = None


MODELS = {"10M": "256,10,4", "1M": "64,4,2"}
"""Width, layers and heads, by parameters."""

OURS_PACKED, OURS_PADDED = "leyden packed", "leyden padded"
SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(OURS_PACKED, "ours", packed=True),
        Subject(OURS_PADDED, "ours", packed=False),
        Subject("trl padded", "trl_grpo", packed=False, environment=TRL),
        Subject("verl packed", "verl_engine", packed=True, environment=VERL),
        Subject("verl padded", "verl_engine", packed=False, environment=VERL),
    )
}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much there is to do."""

    groups: int
    runs: int
    model: str
    """One of ``MODELS``, or a folder."""
    threads: int = 0
    micro_batch_tokens: int = 4096
    device: str = "cpu"
    precision: str = "fp32"


@dataclass(frozen=True, slots=True)
class Found:
    """What a subject answered for a batch."""

    subject: str
    case: str
    answer: Answer
    tokens: int
    parameters: int


class Failed(Exception):
    """A subject ended without an answer; the text is the end of what it said."""


class Campaign:
    """Runs subjects; what cannot be run is told and left out."""

    def __init__(self, effort: Effort, folder: Path, console: Console, may_install: Sequence[str]) -> None:
        self._effort, self._folder, self._console = effort, folder, console
        self._may_install = may_install
        self.failures: list[str] = []

    def run(self, subjects: Sequence[Subject], cases: Sequence[Lengths]) -> Iterator[Found]:
        """All of them."""
        for lengths in cases:
            job = self._prepared(lengths)
            told = describe(job.rollouts)
            self._console.print(
                f"{lengths.name}: {told.rollouts} rollouts, {told.tokens:,} tokens of which {told.sampled:,} "
                f"sampled, {told.shortest} to {told.longest} long, median {told.median:g}; "
                f"padded to the longest {told.padding:.2f} x"
            )
            for subject in subjects:
                try:
                    answer = self._answer(subject, job, lengths.name)
                except (CannotInstall, Failed) as error:
                    self.failures.append(f"{subject.name}, {lengths.name}: {error}")
                    continue
                yield Found(subject.name, lengths.name, answer, told.tokens, job.parameters)

    def _prepared(self, lengths: Lengths) -> Job:
        effort = self._effort
        job = Job(
            model=str(
                self._folder / effort.model if effort.model in MODELS else Path(effort.model).resolve()
            ),
            rollouts=batch(lengths, groups=effort.groups),
            logprobs=[],
            packed=True,
            micro_batch_tokens=effort.micro_batch_tokens,
            threads=effort.threads or len(os.sched_getaffinity(0)),
            device=effort.device,
            precision=effort.precision,
            runs=effort.runs,
            lr=1e-6,
            scratch=str(self._folder),
        )
        path = self._folder / f"{lengths.name}.json"
        job = replace(
            job, logprobs=[[[0.0] * (stop - start) for start, stop in r.turns] for r in job.rollouts]
        )
        job.write(path)
        self._run(
            [sys.executable, "-m", "learner_bench.prepare", str(path), MODELS.get(effort.model, "")],
            path.with_suffix(".log"),
        )
        return Job.read(path)

    def _answer(self, subject: Subject, job: Job, case: str) -> Answer:
        environment = subject.environment
        python = (
            Path(sys.executable)
            if environment is None
            else ensure(environment, install=environment.name in self._may_install)
        )
        stem = self._folder / f"{case}-{subject.name.replace(' ', '-')}"
        asked, answered = stem.with_suffix(".job"), stem.with_suffix(".answer")
        replace(job, packed=subject.packed).write(asked)
        self._run(
            [str(python), "-m", f"learner_bench.{subject.module}", str(asked), str(answered)],
            stem.with_suffix(".log"),
        )
        return Answer(**json.loads(answered.read_text()))

    def _run(self, command: list[str], log: Path) -> None:
        environment = os.environ | {
            "PYTHONPATH": f"{_BENCHMARKS}{os.pathsep}{ROOT / 'services' / 'learner'}",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        with log.open("w") as said:
            try:
                done = subprocess.run(
                    command, stdout=said, stderr=said, env=environment, timeout=_DEADLINE_S, check=False
                )
            except subprocess.TimeoutExpired:
                raise Failed(f"not done after {_DEADLINE_S:g} s; see {log}") from None
        if done.returncode:
            raise Failed(f"ended with {done.returncode}: {log.read_text()[-800:]}")
