"""Runs cases: a fresh stub and subject for each, the load generator run by run, then the accounting."""

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from uuid import uuid4

import msgspec
from rich.console import Console
from rich.markup import escape

from gateway_bench import processes
from gateway_bench.cases import COMPARED, Case, Effort
from gateway_bench.leyden import Leyden, calls_of
from gateway_bench.load import LoadPlan
from gateway_bench.logsize import log_sizes
from gateway_bench.measure import Accounting, Measurement, RunResult, measurements
from gateway_bench.payload import request_body
from gateway_bench.processes import (
    Cores,
    DidNotStart,
    await_answer,
    http,
    module,
    own_environment,
    prepared,
    spawned,
)
from gateway_bench.stub import StubPlan
from gateway_bench.subjects import Running, Site, Subject
from gateway_bench.trajectory import Conversation
from leyden_local.ports import HOST, accepts, free_ports

_SLACK_S = 60.0
_LONG_S = 60.0
_DESCRIPTORS_A_STREAM = 2
_SPARE_DESCRIPTORS = 500


class LoadFailed(Exception):
    """The load generator died; the text is what it said."""


@dataclass
class Campaign:
    """One invocation of the benchmark. ``measured`` grows as it goes."""

    subjects: Sequence[Subject]
    effort: Effort
    cores: Cores
    console: Console
    measured: list[Measurement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What makes the whole run fail: records missing or twice, a subject that died."""
    _step: str = ""

    def run(self, cases: Sequence[Case]) -> None:
        """Measure every case; what fails is noted and the next one goes on."""
        present = [subject for subject in self.subjects if not self._missing(subject)]
        for number, case in enumerate(cases, 1):
            self._step = f"case {number} of {len(cases)}, {case.name}"
            if case.kind in COMPARED:
                for subject in present:
                    self._attempt(case, subject, self.cores)
            elif any(subject.name == "leyden" for subject in present):
                self._leyden_only(case)

    def _missing(self, subject: Subject) -> bool:
        with self.console.status(f"{subject.name}: looking, and installing if need be"):
            reason = subject.unavailable()
        if reason:
            self._skip("", subject.name, reason)
        return bool(reason)

    def _leyden_only(self, case: Case) -> None:
        try:
            match case.kind:
                case "processes":
                    self._processes(case)
                case "slow":
                    self._slow(case)
                case "trajectory":
                    self._trajectory(case)
        except (DidNotStart, LoadFailed) as problem:
            self._fail(f"{case.name} leyden: {problem}")

    def _attempt(self, case: Case, subject: Subject, cores: Cores) -> list[RunResult]:
        if case.streamed and not subject.streams:
            self._skip(case.name, subject.name, "refuses streams")
            return []
        try:
            return self._measure(case, subject, cores)
        except (DidNotStart, LoadFailed) as problem:
            self._fail(f"{case.name} {subject.name}: {problem}")
            return []

    def _measure(self, case: Case, subject: Subject, cores: Cores) -> list[RunResult]:
        with self._site(case, cores) as (site, stub_pid), subject.running(site) as running:
            plan = self._plan(case, running, site, stub_pid)
            runs = self._runs(plan, site, subject.name)
            self.measured += measurements(subject.name, case.name, runs)
            self._account(case, subject.name, running, runs)
        self._say(case, subject.name)
        return runs

    def _runs(self, plan: LoadPlan, site: Site, what: str) -> list[RunResult]:
        """The runs of one case; a subject so slow that one takes minutes has only that one."""
        results: list[RunResult] = []
        for number in range(1, self.effort.runs + 1):
            began = monotonic()
            results.append(self._load(plan, site, f"{what}, run {number}"))
            if monotonic() - began > _LONG_S:
                break
        return results

    @contextlib.contextmanager
    def _site(
        self, case: Case, cores: Cores, conversation: Conversation | None = None
    ) -> Iterator[tuple[Site, int]]:
        """A stub that answers, and a folder for the files of whatever is put before it."""
        (port,) = free_ports(1)
        plan = StubPlan(port, case.interval_s, case.tokens, conversation)
        command = module("stub", msgspec.json.encode(plan).decode())
        with tempfile.TemporaryDirectory(prefix="bench-gateway-") as name:
            log = Path(name) / "stub.log"
            with spawned(command, cores=cores.load, log=log, env=own_environment()) as stub:
                await_answer(stub, log, lambda: accepts(port))
                yield Site(port, cores, Path(name)), stub.pid

    def _plan(self, case: Case, running: Running, site: Site, stub_pid: int) -> LoadPlan:
        effort = self.effort
        stream_s = case.interval_s * case.tokens
        return LoadPlan(
            host=HOST,
            port=running.port,
            calls=running.calls,
            body=request_body(streamed=case.streamed).decode(),
            streamed=case.streamed,
            concurrency=case.concurrency,
            seconds=max(effort.seconds, min(stream_s, 2 * effort.seconds)),
            warm_s=effort.warm_s,
            warm_requests=0 if stream_s else case.concurrency,
            min_requests=1 if stream_s else case.concurrency,
            ramp_s=min(1.0, effort.warm_s) * 0.8,
            watched={**running.pids, "stub": [stub_pid]},
            cores={"subject": list(site.cores.subject), "load": list(site.cores.load)},
        )

    def _load(self, plan: LoadPlan, site: Site, what: str) -> RunResult:
        """One run of the load generator, in a process of its own."""
        with self.console.status(f"{self._step}: {what}"):
            limit_s = 2 * plan.max_s + plan.drain_s + plan.ramp_s + _SLACK_S
            done = subprocess.run(
                module("load"),
                input=msgspec.json.encode(plan),
                capture_output=True,
                timeout=limit_s,
                check=False,
                env={**os.environ, **own_environment()},
                preexec_fn=prepared(site.cores.load),
            )
        if done.returncode:
            logs = "\n".join(f"{log.name}: {processes.tail(log)}" for log in site.folder.glob("*.log"))
            raise LoadFailed(f"{done.stderr.decode()[-800:]}\n{logs}")
        return msgspec.json.decode(done.stdout, type=RunResult)

    def _account(self, case: Case, name: str, running: Running, runs: Sequence[RunResult]) -> None:
        """Every 200 that was counted is on the log exactly once, or the benchmark fails."""
        errors: dict[str, int] = {}
        for run in runs:
            for reason, number in run.errors.items():
                errors[reason] = errors.get(reason, 0) + number
        if not all(run.requests or run.chunks for run in runs):
            self._fail(f"{case.name} {name}: a run without an answered request")
        if errors:
            self._fail(f"{case.name} {name}: requests without an answer: {errors}")
        if running.log is None:
            return
        counted = [completion for run in runs for completion in run.completion_ids]
        if nameless := sum(run.answered for run in runs) - len(counted):
            self._fail(f"{case.name} {name}: {nameless} answers without a completion id")
        with self.console.status(f"{self._step}: {name}, reading the log"):
            found = asyncio.run(running.log.completions(counted, sampled=case.tokens))
        accounting = Accounting.of(counted, found.times)
        self.measured += accounting.measurements(name, case.name)
        if not accounting.exact:
            self._fail(f"{case.name} {name}: not every 200 is on the log exactly once: {accounting}")
        if found.unfit:
            self._fail(f"{case.name} {name}: records that are not what was sampled: {found.unfit[:3]}")

    def _processes(self, case: Case) -> None:
        """One process against two, both free to use the same cores, so that only the number differs."""
        available = sorted(os.sched_getaffinity(0))
        wide = Cores(tuple(available[:2]), tuple(available[2:4] or available[:2]))
        subjects = [Leyden(f"leyden x{number}", processes=number) for number in (1, 2)]
        if reason := subjects[-1].unavailable():
            self._skip(case.name, subjects[-1].name, reason)
            return
        results = [self._attempt(case, subject, wide) for subject in subjects]
        if all(results):
            one, two = ([run.requests / run.seconds for run in runs] for runs in results)
            speedup = [b / a for a, b in zip(one, two, strict=True)]
            self.measured.append(Measurement.of("leyden", case.name, "speedup", "x", speedup))

    def _slow(self, case: Case) -> None:
        """Every stream once, all open at the same time."""
        streams = min(
            case.concurrency, (processes.allow_many_files() - _SPARE_DESCRIPTORS) // _DESCRIPTORS_A_STREAM
        )
        if streams < case.concurrency:
            self.console.print(f"{case.name}: the limit on open files allows {streams} streams")
        case = replace(case, concurrency=streams)
        stream_s = case.interval_s * (case.tokens + 3)
        with (
            self._site(case, self.cores) as (site, stub_pid),
            Leyden(connections=streams + 100).running(site) as running,
        ):
            plan = replace(
                self._plan(case, running, site, stub_pid),
                total=streams,
                ramp_s=stream_s / 3,
                requests_per_call=1,
                max_s=5 * stream_s + 60,
            )
            run = self._load(plan, site, "leyden")
            self.measured += measurements("leyden", case.name, [run])
            open_at_once = Measurement.of(
                "leyden", case.name, "open_at_once", "streams", [run.peak_in_flight]
            )
            self.measured.append(open_at_once)
            self._account(case, "leyden", running, [run])
        self._say(case, "leyden")

    def _trajectory(self, case: Case) -> None:
        """A long rollout, and the same turns as rollouts of their own, which hold every token once."""
        effort = self.effort
        conversation = Conversation.of(effort.turns, effort.conversation_tokens)
        together, *apart = ids = [uuid4() for _ in range(effort.turns + 1)]
        with (
            self._site(case, self.cores, conversation) as (site, _),
            Leyden(ids=ids).running(site) as running,
        ):
            assert running.log is not None
            for turn in range(effort.turns):
                for rollout_id, alone in ((together, False), (apart[turn], True)):
                    (call,) = calls_of([rollout_id])
                    body = conversation.request(turn, alone=alone)
                    status, _, answer = http(
                        f"http://{HOST}:{running.port}{call.path}", body, token=call.token
                    )
                    if status != 200:
                        self._fail(f"{case.name}: turn {turn} was answered {status}: {answer[:200]!r}")
                        return
            records = asyncio.run(running.log.of(ids, 2 * effort.turns))
        mine = [record for record in records if record.key == str(together).encode()]
        once = [record for record in records if record.key != str(together).encode()]
        self.measured += log_sizes(case.name, conversation, mine, once)
        self._say(case, "leyden")

    def _skip(self, case: str, name: str, reason: str) -> None:
        text = escape(f"{case:<14} {name:<15} skipped: {reason}")
        self.console.print(f"[dim]{text}", highlight=False)

    def _fail(self, text: str) -> None:
        self.failures.append(text)
        self.console.print(f"[red]{escape(text)}", highlight=False)

    def _say(self, case: Case, name: str) -> None:
        own = {m.metric: m.value for m in self.measured if m.case == case.name and m.subject == name}
        told = ("rps", "cpu_per_request", "cpu_per_chunk", "latency_p50", "memory", "missing", "log_bytes")
        numbers = "  ".join(f"{metric} {own[metric]:,.4g}" for metric in told if metric in own)
        self.console.print(f"{case.name:<14} {name:<15} {numbers}", highlight=False)
