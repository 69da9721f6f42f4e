"""What is measured: keeping up with many rollouts open, the memory they take, coming back after a kill."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from gateway_bench.measure import Measurement
from gateway_bench.processes import Cores

from leyden_schemas import Topic, Topics
from streams_bench.services import Service, accounts, broker, preload, service
from streams_bench.traffic import STEP_TOKENS, Pieces, Story, Told, stories


@dataclass(frozen=True)
class Load:
    """``opened`` rollouts stay open while ``passing`` others begin and end."""

    opened: int = 10_000
    passing: int = 6_000
    steps: int = 2
    samples: int = 8


@dataclass(frozen=True)
class Subject:
    """A service, what it reads and writes, and the counter of what it took in."""

    name: str
    reads: Topic
    writes: Topic
    result: str
    taken: str
    settings: dict[str, str]

    def begin(self, story: Story) -> Iterator[Told]:
        """What opens a rollout, and leaves it open."""
        return story.begun() if self.name == "reward" else iter([story.trajectory()])

    def end(self, told: Sequence[Story]) -> Iterator[Told]:
        """What closes rollouts that are open; for credit the last of a group does."""
        return (story.ended() for story in told) if self.name == "reward" else iter(())


REWARD = Subject(
    "reward",
    Topics.EVENTS,
    Topics.TRAJECTORIES,
    "trajectory_id",
    "leyden_reward_events_total",
    {"LEYDEN_REWARD_GRACE_S": "3600"},
)
CREDIT = Subject(
    "credit",
    Topics.TRAJECTORIES,
    Topics.SAMPLES,
    "sample_id",
    "leyden_credit_trajectories_total",
    {"LEYDEN_CREDIT_DEADLINE_S": "3600"},
)


def measure(subject: Subject, load: Load, cores: Cores) -> list[Measurement]:
    """All of one service."""
    with tempfile.TemporaryDirectory() as folder, broker(cores, Path(folder)) as place:
        pieces = Pieces()

        def group(first: int, count: int) -> Sequence[Story]:
            return stories(first, count, steps=load.steps, samples=load.samples, pieces=pieces)

        opened, rest = _split(subject, group(0, load.opened))
        first = load.opened
        if subject.name == "credit":  # all but the last of each group
            first += len(rest)
        before = preload(place, subject.reads, _all(map(subject.begin, opened)))
        found: list[Measurement] = []

        def add(metric: str, unit: str, value: float) -> None:
            found.append(
                Measurement.of(subject.name, f"{load.opened} open, {load.steps} steps", metric, unit, [value])
            )

        with service(subject.name, place, **subject.settings) as running:
            empty = running.rss()
            started = time.monotonic()
            took = running.wait(subject.taken, before) - started
            unique = len(opened) * load.steps * STEP_TOKENS
            add("taken_in", "completions/s", len(opened) * load.steps / took)
            busy, resting = running.rss() - empty, running.rss_at_rest() - empty
            add("bytes_per_unique_token_byte", "ratio", resting / (4 * unique))
            add("bytes_per_unique_token_byte_busy", "ratio", busy / (4 * unique))
            add("bytes_per_open_rollout", "bytes", resting / len(opened))
            running.kill()
        began = time.monotonic()
        with service(subject.name, place, **subject.settings) as running:
            add("restart", "s", running.wait(subject.taken, before) - began)
            add("restart_computing", "s", running.cpu())
            running.kill()
        passing = group(first - first % load.samples, load.passing)
        more = preload(place, subject.reads, _passing(subject, passing))
        with service(subject.name, place, **subject.settings) as running:
            began, computed = running.wait(subject.taken, before), running.cpu()
            lasted = running.wait(subject.taken, before + more) - began
            add("kept_up", "completions/s", len(passing) * load.steps / lasted)
            add("core", "us/completion", 1e6 * (running.cpu() - computed) / (len(passing) * load.steps))
            finish = chain(subject.end(opened), _all(map(subject.begin, rest)))
            last = preload(place, subject.reads, finish)
            running.wait(subject.taken, before + more + last // 2)
            running.kill()
        with service(subject.name, place, **subject.settings) as running:
            expected = len(passing) + len(opened) + len(rest)
            _settle(running, place.kafka.session_timeout_s)
        books = accounts(place, subject.writes, subject.result)
        add("lost", "results", expected - books.distinct)
        add("repeated", "results", books.repeated)
        add("contradictory", "results", books.contradictory)
        return found


def _all(told: Iterator[Iterator[Told]]) -> Iterator[Told]:
    return chain.from_iterable(told)


def _split(subject: Subject, told: Sequence[Story]) -> tuple[Sequence[Story], Sequence[Story]]:
    """Those that are opened, and those that close what they opened."""
    if subject.name == "reward":
        return told, ()
    last = told[0].samples - 1
    return (
        [story for story in told if story.number % story.samples != last],
        [story for story in told if story.number % story.samples == last],
    )


def _passing(subject: Subject, told: Sequence[Story]) -> Iterator[Told]:
    """Rollouts that begin and end one after another."""
    for story in told:
        yield from subject.begin(story)
        yield from subject.end([story])


def _settle(running: Service, session_s: float) -> None:
    """Wait until nothing is taken in any more."""
    taken, since = -1, time.monotonic()
    while time.monotonic() - since < session_s + 10:
        time.sleep(0.5)
        metric = "leyden_consumer_messages_total"
        if (now := running.taken(metric)) != taken:
            taken, since = now, time.monotonic()
