"""The demo from start to report."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from leyden_local import stack
from leyden_local.demo import report
from leyden_local.demo.campaign import Asker, evaluate, train
from leyden_local.demo.log import RunLog
from leyden_local.demo.options import DemoOptions
from leyden_local.demo.progress import Progress
from leyden_local.demo.scenarios import Scenario
from leyden_local.demo.summary import EvaluationResult, Summary, summarise
from leyden_local.state import StackState
from leyden_platform.messaging import KafkaPublisher
from leyden_platform.settings import KafkaSettings

_PATIENCE_S = 180.0
"""Longest wait for the broker, which shares the cores with training: one slow answer must not cost a run."""


def run_demo(scenario: Scenario, options: DemoOptions, console: Console) -> tuple[Summary, Path]:
    """Run the demo and write its report; returns the summary and the report's folder.

    Raises ``DemoFailed`` or ``StackFailed``. Whatever happens, no process is left behind.
    """
    options = options.model_copy(update={"examples": options.examples.resolve()})
    model = scenario.model(options.examples, lambda text: console.print(text, highlight=False))
    tasks = scenario.tasks(options)
    folder = options.reports / f"demo-{datetime.now().astimezone():%Y%m%d-%H%M%S}-seed{options.seed}"
    report.prepare(folder)
    progress = Progress(console, options.steps)
    directory = Path(tempfile.mkdtemp(prefix="leyden-demo-"))
    config = scenario.stack(options, directory, model)
    try:
        with stack.foreground(config) as state, _memory(state) as peak:
            evaluations, tally = asyncio.run(_campaign(scenario, tasks, options, state, progress))
            progress.stage("stopping")
        progress.stage("done")
        summary = summarise(options, evaluations, tally, progress.timings, max(peak, default=0.0))
        report.write(summary, folder)
        return summary, folder
    except BaseException:
        console.print(f"The logs of the services are in {directory / 'logs'}")
        options = options.model_copy(update={"keep": True})
        report.discard(folder)
        raise
    finally:
        if not options.keep:
            stack.remove(directory)


async def _campaign(
    scenario: Scenario, tasks: Any, options: DemoOptions, state: StackState, progress: Progress
) -> tuple[list[EvaluationResult], Any]:
    kafka = KafkaSettings(bootstrap=state.endpoints.kafka, idempotent=False, request_timeout_s=_PATIENCE_S)
    publisher = KafkaPublisher(kafka, "demo")
    await publisher.start()
    asker = Asker(scenario.example, options.rollout_timeout_s)
    heldout = list(tasks.generate(options.heldout, split="heldout", seed=options.seed))
    evaluations: list[EvaluationResult] = []
    log = RunLog(kafka)
    progress.watch(log)

    async def measure(when: str, version: int) -> None:
        for temperature in (0.0, 1.0):
            progress.stage(f"evaluate {when}, {'greedy' if temperature == 0 else 'sampled'}")
            result = await evaluate(
                log, publisher, asker, heldout, version, temperature, options.evaluation_timeout_s
            )
            evaluations.append(EvaluationResult.of(when, result))

    try:
        async with log.watching(), progress.shown():
            await measure("before", 0)
            progress.stage("train")
            problems = cycle(tasks.generate(tasks.MOST["train"], split="train", seed=options.seed))
            tally = await train(log, publisher, asker, problems, options)
            await measure("after", max(model.version for model in tally.steps.values()))
    finally:
        await publisher.stop()
    return evaluations, tally


@contextmanager
def _memory(state: StackState, interval_s: float = 2.0) -> Iterator[list[float]]:
    """Samples, in MB, of what all processes of the stack hold together."""
    samples: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(interval_s):
            samples.append(_tree_memory_mb(state.pid) + _tree_memory_mb(None))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _tree_memory_mb(pid: int | None) -> float:
    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)] if pid else [root]
    except psutil.NoSuchProcess:
        return 0.0
    for process in processes:
        try:
            total += resident_bytes(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 1e6


def resident_bytes(process: psutil.Process) -> int:
    """Its proportional set size (Linux), else its unique set size, else what is resident."""
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", 0) or getattr(memory, "uss", 0) or memory.rss)
