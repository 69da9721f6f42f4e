"""Completions that lean on earlier ones become whole steps; one whose base is missing is kept untrained."""

from uuid import UUID, uuid4

from prometheus_client import REGISTRY

from leyden_platform.clock import ManualClock
from leyden_platform.messaging import MemoryPublisher, Partition, Record
from leyden_platform.testing.rollouts import EPOCH, TOOL, Rollout, answer, call, tool_message
from leyden_reward.air.shaping import Shaping
from leyden_reward.assembly import Assembly, Closed, Decision, Kept, KeptInPart
from leyden_reward.handlers import RewardProcessor
from leyden_reward.rewards.grading import Grader
from leyden_reward.rewards.verdict import Reason, Refused, Verdict
from leyden_reward.scoring import Scoring
from leyden_schemas import EventMessage, JsonObject, PromptBase, Step, Topics, Trajectory, encode

ASKED: JsonObject = {"role": "user", "content": "2 + 2"}
CALLED: JsonObject = {"role": "assistant", "content": None, "tool_calls": [call()]}


def leaning(on: UUID, tokens: int = 4, items: int = 1) -> PromptBase:
    """A prompt that goes on where ``Rollout.completion`` ended."""
    return PromptBase(completion_id=on, tokens=tokens, items=items, fields=("tools",))


def take(*events: EventMessage) -> list[Decision]:
    """What an assembly makes of the events."""
    assembly = Assembly()
    return [one for offset, event in enumerate(events) for one in assembly.take(event, offset, EPOCH)]


def steps(decisions: list[Decision]) -> list[Step]:
    """The steps of the one rollout that closed."""
    (closed,) = [decision for decision in decisions if isinstance(decision, Closed)]
    return closed.trajectory.steps


def test_a_chain_of_deltas_becomes_whole_steps() -> None:
    rollout = Rollout()
    first = rollout.completion()  # asked with [1, 2], sampled [3, 4]
    second = rollout.completion(
        base=leaning(first.completion_id),
        prompt_token_ids=[5],
        request={"messages": [CALLED, tool_message("4")]},
    )
    third = rollout.completion(
        base=leaning(second.completion_id, tokens=7, items=3), prompt_token_ids=[6], request={"messages": []}
    )

    told = steps(take(rollout.started(), first, second, third, rollout.finished()))

    assert [step.prompt_token_ids for step in told] == [[1, 2], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 3, 4, 6]]
    assert told[2].request == {"messages": [ASKED, CALLED, tool_message("4")], "tools": [TOOL]}
    assert [step.untrainable for step in told] == [None, None, None]


def test_a_missing_base_keeps_the_rollout_and_says_so_all_along_the_chain() -> None:
    rollout = Rollout()
    orphan = rollout.completion(base=leaning(uuid4()), prompt_token_ids=[5], request={"messages": []})
    child = rollout.completion(base=leaning(orphan.completion_id, tokens=3), prompt_token_ids=[6])
    whole = rollout.completion()

    decisions = take(rollout.started(), orphan, child, whole, rollout.finished())

    assert decisions[1:4] == [KeptInPart(), KeptInPart(), Kept()]
    told = steps(decisions)
    assert [step.untrainable for step in told] == ["base_unknown", "base_unknown", None]
    assert (told[0].prompt_token_ids, told[0].request, told[0].response) == ([], {}, None)
    assert told[0].token_ids == [3, 4]


def test_the_base_of_another_attempt_is_not_known() -> None:
    rollout = Rollout()
    first = rollout.completion()
    again = rollout.completion(attempt=2, base=leaning(first.completion_id), request={"messages": []})

    told = steps(take(rollout.started(), first, rollout.started(2), again, rollout.finished(attempt=2)))

    assert [step.untrainable for step in told] == ["base_unknown"]


def test_a_step_without_its_prompt_earns_no_intermediate_reward() -> None:
    rollout = Rollout()
    orphan = rollout.completion(
        base=leaning(uuid4()), request={"messages": []}, response=answer(None, [call()])
    )
    told = steps(take(rollout.started(), orphan, rollout.finished()))

    assert Shaping(cap=0.25).shape(told).steps[0].terms == []


def test_a_call_in_a_delta_is_judged_by_the_tools_of_its_base() -> None:
    rollout = Rollout()
    first = rollout.completion(response=answer(None, [call("add")]))
    second = rollout.completion(
        base=leaning(first.completion_id),
        request={"messages": [CALLED, tool_message("4")]},
        response=answer(None, [call("subtract", call_id="c2")]),
    )
    told = steps(take(rollout.started(), first, second, rollout.finished()))

    shaped = Shaping(cap=0.25).shape(told).steps
    assert [[term.name for term in step.terms] for step in shaped] == [
        ["tool_call_succeeded"],
        ["unknown_tool"],
    ]


class NoWorkers:
    """Nobody has a reward function of this name."""

    def __contains__(self, name: str) -> bool:
        return False

    async def grade(self, name: str, trajectory: Trajectory) -> Verdict:
        """Refuse."""
        return Refused(Reason.NOT_FINITE, "unused")


async def test_a_missing_base_is_counted() -> None:
    publisher = MemoryPublisher()
    processor = RewardProcessor(
        assembly=Assembly(),
        scoring=Scoring(Grader(NoWorkers()), Shaping(cap=0.25), failed_reward=0.0),
        publisher=publisher,
        clock=ManualClock(EPOCH),
    )
    rollout = Rollout()
    orphan = rollout.completion(base=leaning(uuid4()), request={"messages": []})
    before = REGISTRY.get_sample_value("leyden_reward_bases_unknown_total") or 0.0
    for offset, event in enumerate([rollout.started(), orphan, rollout.finished()]):
        key, stamp = event.key().encode(), int(EPOCH.timestamp() * 1000)
        await processor.handle(
            Record(Partition(Topics.EVENTS.name, 0), offset, key, encode(event), {}, stamp)
        )
    await processor.drain()

    assert REGISTRY.get_sample_value("leyden_reward_bases_unknown_total") == before + 1
    (trajectory,) = publisher.published
    assert isinstance(trajectory, Trajectory)
    assert trajectory.steps[0].untrainable == "base_unknown"
