"""``kill -9`` of a real learner at every moment of a step: nothing is trained twice, skipped or different.

One learner after the other is killed, each at another moment, and each goes on from what the one before left;
beside them stands one that nobody disturbs. Samples share one partition, so that all see them in one order.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from learner_harness import BATCH, DEADLINE_S, World, running, until
from safetensors.torch import load_file
from torch import equal

from leyden_learner.repository import TRAINED
from leyden_local.ports import free_ports
from leyden_platform.artifacts import TRAINER_STATE
from leyden_platform.database import create_engine, transaction
from leyden_platform.http import HttpServer

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(300)]

PROGRAM = Path(__file__).with_name("learner_at_fault.py")
KILLED = -signal.SIGKILL

# Each once, in the order of a step; those that come several times in a step, at several of them.
OF_A_STEP = [
    ("before the step", 1),
    ("between two passes", 2),
    ("weights changed", 1),
    ("weights changed", 2),
    ("trained", 1),
    ("folder made", 1),
    ("half of the weights", 1),
    ("weights written", 1),
    ("half of the state", 1),
    ("tokenizer copied", 1),
    ("tokenizer copied", 3),
    *(("flushed", count) for count in (1, 4, 9)),
    ("before the rename", 1),
    ("renamed", 1),
    ("written", 1),
    ("before the transaction", 1),
    ("in a transaction", 1),
    ("committed", 1),
    ("before registering", 1),
    ("registered", 1),
    ("noted", 1),
    ("before pruning", 1),
    ("a file pruned", 1),
    ("a file pruned", 3),
    ("pruned", 1),
    ("pruned", 2),
    ("resumed", 1),
    ("cleaned", 1),
]
COMMITTED = {
    "committed",
    "before registering",
    "registered",
    "noted",
    "before pruning",
    "a file pruned",
    "pruned",
}
SOME = [
    ("weights changed", 2),
    ("half of the weights", 1),
    ("half of the state", 1),
    ("renamed", 1),
    ("in a transaction", 1),
    ("committed", 1),
    ("resumed", 1),
]
OF_AN_ADAPTER = [("half of the adapter", 1), ("renamed", 1), ("committed", 1), ("resumed", 1)]
"""Where publishing it differs, or what is resumed from does."""


BETWEEN_STEPS = [("trained", 1), ("committed", 1), ("pruned", 1)]
"""Where whose turn it is matters: queue ``b`` has two of every three, and a step has four."""


class Nursery:
    """Starts learners from one warm process."""

    def __init__(self, process: asyncio.subprocess.Process, environment: dict[str, str]) -> None:
        self._process, self._environment = process, environment

    async def run(self, moment: str | None, count: int = 1) -> int:
        """A learner that is killed at this moment; its status once it has ended."""
        await self.begin(moment, count)
        return await self.line()

    async def begin(self, moment: str | None, count: int = 1) -> int:
        """The process id of a learner that has started."""
        assert self._process.stdin
        wanted = {"environment": self._environment, "moment": moment, "count": count}
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        return await self.line()

    async def line(self) -> int:
        """The next number it says."""
        assert self._process.stdout
        async with asyncio.timeout(DEADLINE_S):
            return int(await self._process.stdout.readline())


@asynccontextmanager
async def nursery(world: World, **changes: str) -> AsyncIterator[Nursery]:
    """Learners of a world, whose registry is served over HTTP."""
    (port,) = free_ports(1)
    environment = {
        "LEYDEN_KAFKA_BOOTSTRAP": world.kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": str(world.kafka.idempotent),
        "LEYDEN_DATABASE_URL": world.database.url.get_secret_value(),
        "LEYDEN_OPS_PORT": "0",
        "LEYDEN_LOG_LEVEL": "ERROR",
        "LEYDEN_LEARNER_REGISTRY_URL": f"http://127.0.0.1:{port}",
        "LEYDEN_LEARNER_CHECKPOINT_DIR": str(world.folder / "checkpoints"),
        "LEYDEN_LEARNER_POLICY": world.policy,
    } | {f"LEYDEN_LEARNER_{name.upper()}": value for name, value in changes.items()}
    stop = asyncio.Event()
    serving = asyncio.create_task(HttpServer("registry", world.registry.app, "127.0.0.1", port).run(stop))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        yield Nursery(process, environment)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        stop.set()
        await serving


async def trained(world: World) -> dict[UUID, int]:
    """Which step trained each rollout."""
    engine = create_engine(world.database)
    query = sa.select(TRAINED.c.rollout_id, TRAINED.c.step).where(TRAINED.c.policy == world.policy)
    async with transaction(engine) as connection:
        found = {row.rollout_id: row.step for row in await connection.execute(query)}
    await engine.dispose()
    return found


async def told(world: World) -> list[tuple[Any, ...]]:
    """What Postgres says of every step: the digest is of all that is published, offsets from the first."""
    checkpoints = await world.checkpoints()
    first = sum(checkpoints[0].offsets.values())
    return [
        (each.step, each.digest, each.parent, each.version, sum(each.offsets.values()) - first)
        for each in checkpoints
    ]


def assert_same_state(one: Path, other: Path) -> None:
    """Optimizer, RNG, and weights that were not published, bit for bit."""
    left, right = (load_file(folder / TRAINER_STATE / "state.safetensors") for folder in (one, other))
    assert left.keys() == right.keys()
    assert [name for name in left if not equal(left[name], right[name])] == []


def as_text(value: Any) -> str:
    """A setting as a variable of the environment."""
    return json.dumps(value) if isinstance(value, dict) else str(value)


SETTINGS: dict[str, Any] = {
    "batch_rollouts": BATCH,
    "min_rollouts": 1,
    "max_staleness": 100,
    "lr": 1e-2,
    "threads": 1,
    "device": "cpu",
    "keep_weights": 2,
    "keep_trainer_states": 2,
    "epochs": 2,
    "micro_batch_tokens": 16,
}


@pytest.mark.parametrize(
    ("moments", "changes"),
    [
        pytest.param(OF_A_STEP, {"lr_schedule": "cosine", "warmup_steps": 3, "total_steps": 100}, id="all"),
        pytest.param(SOME, {"lora_rank": 4, "ema_decay": 0.5, "kl_coefficient": 0.1}, id="adapters"),
        pytest.param(OF_AN_ADAPTER, {"lora_rank": 4, "publish": "adapter"}, id="adapters alone"),
        pytest.param(BETWEEN_STEPS, {"queue_weights": {"b": 2.0}}, id="queues"),
    ],
)
async def test_a_kill_at_any_moment_changes_nothing(
    make_world: Callable[[], World], moments: list[tuple[str, int]], changes: dict[str, Any]
) -> None:
    steady, killed = make_world(), make_world()
    settings = SETTINGS | changes
    steps = 4 + sum(moment in COMMITTED for moment, _ in moments)
    for world in (steady, killed):
        # One too many, so that every step leaves something to go on from.
        count = steps * BATCH + 1
        queues = (["a"] * (count // 2) + ["b"] * count) if "queue_weights" in changes else ["a"] * count
        await world.publish(*(world.sample(index, queue=queues[index]) for index in range(count)))
    async with nursery(killed, **{name: as_text(value) for name, value in settings.items()}) as learners:
        assert await learners.run("pruned", 3) == KILLED
        for moment, count in moments:
            assert await learners.run(moment, count) == KILLED, moment
            rollouts = await trained(killed)
            assert len(rollouts) == BATCH * max(rollouts.values())
        pid = await learners.begin(None)
        async with running(steady.learner(max_steps=steps, **settings)) as task:
            await until(lambda: len(steady.registry.registered) == steps, task)
            await until(lambda: len(killed.registry.registered) == steps, task)
        os.kill(pid, signal.SIGTERM)
        assert await learners.line() == 0
    assert await told(killed) == await told(steady)
    assert await trained(killed) == await trained(steady)
    assert [each["step"] for each in killed.registry.registered] == list(range(1, steps + 1))
    newest = [(await world.checkpoints())[-1].path for world in (killed, steady)]
    assert_same_state(*newest)
    folder = newest[0].parent
    assert {each for each in folder.iterdir() if each.is_dir()} <= {
        each.path for each in await killed.checkpoints()
    }
