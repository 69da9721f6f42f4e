"""Rollouts of thousands of turns pass through assembly, rules, publishing and credit."""

from uuid import UUID

from leyden_credit.groups import ClosedGroup, Groups
from leyden_credit.rows import merge
from leyden_platform.testing.rollouts import EPOCH, Rollout, answer, call, make_task, tool_message
from leyden_reward.air.shaping import Shaping
from leyden_reward.assembly import Assembly, Closed
from leyden_schemas import JsonObject, PromptBase, Topics, Trajectory, decode, encode

TURNS = 2_000


def long_rollout(turns: int) -> Closed:
    """Each turn calls a tool and leans on the turn before, as the gateway records it."""
    rollout, assembly = Rollout(task=make_task(samples=1)), Assembly()
    assembly.take(rollout.started(), 0, EPOCH)
    before: UUID | None = None
    for turn in range(turns):
        changes: JsonObject = {"response": answer(None, [call(call_id=f"c{turn}")])}
        if before is not None:
            base = PromptBase(
                completion_id=before, tokens=5 * turn - 1, items=2 * turn - 1, fields=("tools",)
            )
            said = {"role": "assistant", "content": None, "tool_calls": [call(call_id=f"c{turn - 1}")]}
            talk = {"messages": [said, tool_message("4", f"c{turn - 1}")]}
            changes |= {"base": base, "prompt_token_ids": [turn, 7, 8], "request": talk}
        event = rollout.completion(**changes)
        before = event.completion_id
        assembly.take(event, turn + 1, EPOCH)
    (closed,) = assembly.take(rollout.finished(), turns + 1, EPOCH)
    assert isinstance(closed, Closed)
    return closed


def test_two_thousand_turns_are_scored_published_and_become_one_row() -> None:
    trajectory = long_rollout(TURNS).trajectory
    shaped = Shaping(cap=0.25).shape(trajectory.steps).steps
    published = encode(trajectory.model_copy(update={"steps": shaped}))
    assert len(published) < 2_000 * TURNS, "a step costs what is new in it"

    read: Trajectory = decode(Topics.TRAJECTORIES, published)
    last = read.steps[-1]
    assert len(last.request["messages"]) == 2 * TURNS - 1
    (_, closed) = Groups().take(read, 0, EPOCH)
    assert isinstance(closed, ClosedGroup)
    merged = merge(closed.members[0].trajectory.steps, [1.0] * TURNS, policy="calculator")
    (row,) = merged.rows
    assert row.token_ids == [*last.prompt_token_ids, *last.token_ids]
    assert len(row.spans) == TURNS
