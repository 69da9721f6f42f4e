"""Rollouts that no runner started: sessions of production traffic, and what opens and closes them.

A session has no task, so it gets one: the conversation it began with, scored by what people say about it.
"""

from dataclasses import dataclass, field
from datetime import timedelta

from leyden_platform.conversation import turns
from leyden_reward.feedback import REWARD, SCALES
from leyden_reward.rewards.judging.client import is_own_call
from leyden_schemas import (
    CompletionRecorded,
    CompletionStatus,
    JsonObject,
    Mode,
    RewardSpec,
    RolloutStarted,
    Step,
    Task,
    cause_id,
    parse_policy_ref,
)
from leyden_schemas.deltas import CONVERSATION

RUNNER = "session"
"""Stands in a session's ``RolloutStarted``, which is never on the log, where a runner's name would."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """When a session is over, and how it is scored."""

    idle: timedelta = timedelta(hours=1)
    longest: timedelta = timedelta(hours=4)
    close_on: frozenset[str] = frozenset()
    """Signals about the whole session that end it."""
    reward: RewardSpec = field(default_factory=lambda: RewardSpec(name=REWARD))
    counting: frozenset[str] = frozenset(SCALES)
    """Signals that are feedback: late ones make a revision."""

    @property
    def reach(self) -> timedelta:
        """How long before one of its events a session may have begun."""
        return self.longest + self.idle


def opens(event: CompletionRecorded) -> bool:
    """Whether a session begins with this completion.

    Not with an error, which answered nobody; nor with a call that names no session and is not to a policy
    (embeddings): it would be a session by itself that nobody can ever train on. Nor with a call of our judge.
    """
    if event.mode is not Mode.PRODUCTION or event.status is CompletionStatus.ERROR:
        return False
    if is_own_call(event.agent, event.session):
        return False
    return event.session is not None or (event.operation is None and event.untrainable != "external")


def started(event: CompletionRecorded, rules: SessionRules) -> RolloutStarted:
    """The start that the session's first completion amounts to; a group of its own."""
    return RolloutStarted(
        tenant=event.tenant,
        run=event.run,
        event_id=cause_id("session_started", event.completion_id),
        rollout_id=event.rollout_id,
        attempt=event.attempt,
        occurred_at=event.occurred_at,
        group_id=cause_id("session", event.rollout_id, event.completion_id),
        index=0,
        task=Task(
            tenant=event.tenant,
            run=event.run,
            task_id=str(event.rollout_id),
            input=_asked(event),
            policy=_policy(event.policy),
            reward=rules.reward,
        ),
        runner=RUNNER,
    )


def _asked(event: CompletionRecorded) -> JsonObject:
    """The conversation of the request, whatever its protocol calls it."""
    name = CONVERSATION[event.protocol]
    return {name: event.request[name]} if name in event.request else {}


def _policy(name: str) -> str:
    try:
        policy = parse_policy_ref(name)[0]
    except ValueError:
        return "unknown"
    return policy[:200]


def last_word(steps: list[Step]) -> str | None:
    """What the agent said last: the output of a session that ended without naming one."""
    return turns(steps[-1:])[0].text or None if steps else None
