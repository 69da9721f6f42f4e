"""What an agent did through the whole stack, scored and credited again by one command."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from stack_harness import DEADLINE_S, REPOSITORY, send, tasks, watching

from leyden_local.state import StackState
from leyden_schemas import Topics, Trajectory

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(400)]


async def replayed(stack: StackState, run: str, reports: Path) -> Any:
    """The report of a replay of one run."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "leyden.cli", "replay", "--run", run, "--into", "nightly"),
        *("--kafka", stack.endpoints.kafka, "--reports", str(reports)),
        env={
            **os.environ,
            "LEYDEN_KAFKA_IDEMPOTENT": "false",
            "LEYDEN_CATALOGUE_PATH": json.dumps([str(REPOSITORY / "examples")]),
            "LEYDEN_CATALOGUE_REWARDS": '{"calculator": "calculator.reward:reward"}',
        },
    )
    assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
    return json.loads((reports / "replay-nightly" / "replay.json").read_text())


async def test_a_replay_of_the_live_definitions_is_what_was_live_bit_for_bit(
    running_stack: StackState, tmp_path: Path
) -> None:
    run = "replayed"
    async with watching(running_stack.endpoints.kafka, Topics.TRAJECTORIES.name) as seen:
        await send(running_stack, *tasks(run, samples=8))
        await seen.until(lambda: sum(t.run == run for t in seen.of(Trajectory)) == 32, "32 scored rollouts")
    async with asyncio.timeout(DEADLINE_S):
        while (found := await replayed(running_stack, run, tmp_path))["comparison"]["samples"]["only_after"]:
            continue  # live credit is not there yet
    assert found["counts"]["rollouts"] == 32
    assert found["comparison"]["without_before"] == 0
    assert found["comparison"]["samples"] == {
        "identical": found["counts"]["samples"], "different": 0, "only_before": 0, "only_after": 0,
    }  # fmt: skip
    assert found["comparison"]["measures"][0]["equal"] == 32
