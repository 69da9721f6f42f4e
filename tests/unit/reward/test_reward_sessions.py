"""Sessions that no runner started: what opens and closes them, and what late feedback makes of them."""

import math
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from leyden_platform.testing.rollouts import EPOCH, Rollout, answer, make_task
from leyden_reward.assembly import Assembly
from leyden_reward.decisions import (
    Closed,
    Decision,
    Drop,
    Dropped,
    Kept,
    KeptInPart,
    Opened,
    Revisit,
)
from leyden_reward.sessions import SessionRules
from leyden_schemas import (
    CompletionRecorded,
    EventMessage,
    Mode,
    Outcome,
    PromptBase,
    RewardSpec,
    SignalRecorded,
    cause_id,
    new_id,
)

HOUR = timedelta(hours=1)
RULES = SessionRules(idle=HOUR, longest=4 * HOUR)


class Session(Rollout):
    """Events of a session, told with the seconds since the epoch at which they happen."""

    def asked(self, at: float = 0.0, **changes: Any) -> CompletionRecorded:
        """A completion of production traffic."""
        event = self.completion(**({"mode": Mode.PRODUCTION, "session": "s"} | changes))
        return event.model_copy(update={"occurred_at": EPOCH + timedelta(seconds=at)})

    def said(self, value: float | None = 1.0, **changes: Any) -> SignalRecorded:
        """Feedback, as the gateway records it."""
        return self.signal(value, **({"source": "shop"} | changes))


def assembly(**rules: Any) -> Assembly:
    """With sessions that are idle after an hour and end after four."""
    return Assembly(sessions=SessionRules(**({"idle": HOUR, "longest": 4 * HOUR} | rules)))


def at(seconds: float) -> Any:
    return EPOCH + timedelta(seconds=seconds)


def only(decisions: list[Decision]) -> Closed:
    (closed,) = [decision for decision in decisions if isinstance(decision, Closed)]
    return closed


def test_the_first_completion_opens_a_session_with_a_task_of_its_own() -> None:
    session, reward = Session(), assembly()
    first = session.asked(tenant="shop", run="live", policy="assistant")

    assert reward.take(first, 7, at(0)) == [Opened(7), Kept()]
    assert reward.take(session.asked(9, tenant="shop", run="live"), 8, at(9)) == [Kept()]
    finished = session.finished("done", tenant="shop", run="live", source="shop")
    trajectory = only(reward.take(finished, 9, at(10))).trajectory

    assert (trajectory.tenant, trajectory.run, trajectory.rollout_id) == ("shop", "live", first.rollout_id)
    assert trajectory.group_id == cause_id("session", first.rollout_id, first.completion_id)
    task = trajectory.task
    assert task.input == {"messages": [{"role": "user", "content": "2 + 2"}]}
    assert (task.policy, task.samples, task.reward) == ("assistant", 1, RewardSpec(name="feedback"))
    assert (trajectory.output, trajectory.outcome, len(trajectory.steps)) == ("done", Outcome.SUCCEEDED, 2)


def test_what_the_agent_said_last_is_the_output_that_nobody_named() -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(response=answer("four")), 0, at(0))
    assert only(reward.take(session.finished(None), 1, at(1))).trajectory.output == "four"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mode": Mode.TRAINING}, Drop.UNKNOWN_ROLLOUT),
        ({"mode": Mode.EVALUATION}, Drop.UNKNOWN_ROLLOUT),
        ({"mode": None}, Drop.UNKNOWN_ROLLOUT),
        ({"status": "error"}, Drop.NOT_A_CONVERSATION),
        ({"session": None, "operation": "embeddings"}, Drop.NOT_A_CONVERSATION),
        ({"session": None, "untrainable": "external"}, Drop.NOT_A_CONVERSATION),
        ({"agent": "judge", "session": f"judge-{UUID(int=7)}"}, Drop.NOT_A_CONVERSATION),
        ({"agent": "judge", "session": f"ruler-{UUID(int=7)}"}, Drop.NOT_A_CONVERSATION),
    ],
)
def test_what_opens_no_session(changes: dict[str, Any], reason: Drop) -> None:
    assert assembly().take(Session().asked(**changes), 0, at(0)) == [Dropped(reason)]


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": "judge"},
        {"agent": "judge", "session": "judge-dredd"},
        {"agent": "judge", "session": None},
        {"agent": "main", "session": f"judge-{UUID(int=7)}"},
        {"agent": "judge", "session": f"judge-{UUID(int=7)}-2"},
    ],
)
def test_a_users_agent_may_be_called_judge(changes: dict[str, Any]) -> None:
    assert assembly().take(Session().asked(**changes), 0, at(0))[0] == Opened(0)


def test_a_call_to_another_model_is_part_of_a_session_that_is_named() -> None:
    assert assembly().take(Session().asked(untrainable="external"), 0, at(0))[0] == Opened(0)


def test_an_odd_policy_name_opens_a_session_all_the_same() -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(policy="gpt@latest"), 0, at(0))
    assert only(reward.take(session.finished(), 1, at(1))).trajectory.task.policy == "unknown"


def test_an_idle_session_ends_by_the_time_of_the_log() -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(), 0, at(0))
    reward.take(session.asked(1800), 1, at(1800))
    assert reward.overdue(at(5399.9)) == []
    (closed,) = reward.overdue(at(5400))
    assert closed.trajectory.finished_at == at(5400)
    assert closed.trajectory.excluded_reason is None
    assert len(reward) == 0


def test_a_busy_session_ends_too() -> None:
    session, reward = Session(), assembly()
    for minute in range(0, 240, 30):
        assert not reward.overdue(at(minute * 60))
        reward.take(session.asked(minute * 60), minute, at(minute * 60))
    assert only(list(reward.overdue(at(4 * 3600)))).trajectory.finished_at == at(4 * 3600)


def test_feedback_does_not_keep_a_session_open() -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(), 0, at(0))
    reward.take(session.said(), 1, at(3000))
    (closed,) = reward.overdue(at(3600))
    assert [term.name for term in closed.signals] == ["signal.thumb"]


def test_feedback_on_the_whole_session_ends_it_where_that_is_chosen() -> None:
    session, reward = Session(), assembly(close_on=frozenset({"thumb"}))
    first = session.asked()
    reward.take(first, 0, at(0))
    assert reward.take(session.said(completion_id=first.completion_id), 1, at(1)) == [Kept()]
    assert reward.take(session.said(name="score"), 2, at(2)) == [Kept()]
    assert len(only(reward.take(session.said(), 3, at(3))).signals) == 2


def test_a_session_that_goes_on_after_its_end_is_another_trajectory() -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(), 0, at(0))
    second = session.asked(9000)
    ended, opened, kept = reward.take(second, 1, at(9000))
    assert isinstance(ended, Closed)
    assert (opened, kept) == (Opened(1), Kept())
    again = only(reward.take(session.finished(), 2, at(9001))).trajectory
    assert again.group_id == cause_id("session", second.rollout_id, second.completion_id)
    assert again.trajectory_id != ended.trajectory.trajectory_id
    assert again.rollout_id == ended.trajectory.rollout_id


def test_a_completion_that_was_asked_for_before_the_end_is_late() -> None:
    session, reward = Session(), assembly()
    slow, first = session.asked(1), session.asked(2)
    reward.take(first, 0, at(2))
    finish = session.finished().model_copy(update={"occurred_at": at(3)})
    reward.take(finish, 1, at(3))
    assert reward.take(slow, 2, at(30)) == [Dropped(Drop.LATE)]
    assert reward.take(first, 3, at(31)) == [Dropped(Drop.LATE)]
    assert reward.take(finish, 4, at(32)) == [Dropped(Drop.LATE)]


def test_another_tenant_has_no_say() -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(tenant="shop"), 0, at(0))
    stranger: dict[str, Any] = {"tenant": "other"}
    assert reward.take(session.said(**stranger), 1, at(1)) == [Dropped(Drop.OTHER_TENANT)]
    assert reward.take(session.finished(**stranger), 2, at(2)) == [Dropped(Drop.OTHER_TENANT)]


def test_people_cannot_end_what_a_runner_runs_but_may_say_what_they_think() -> None:
    rollout, reward = Rollout(), assembly()
    reward.take(rollout.started(2), 0, at(0))
    assert reward.take(rollout.finished(source="shop"), 1, at(1)) == [Dropped(Drop.NOT_A_SESSION)]
    assert reward.take(rollout.signal(1.0, source="shop"), 2, at(2)) == [Kept()]
    assert len(only(reward.take(rollout.finished(attempt=2), 3, at(3))).signals) == 1


def test_people_judge_a_session_whatever_we_did_to_it() -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(), 0, at(0))
    reward.take(session.asked(1, status="error", untrainable="upstream_timeout"), 1, at(1))
    closed = only(reward.take(session.finished(source="shop"), 2, at(2)))
    assert closed.trajectory.excluded_reason is None


def test_a_start_that_comes_after_the_session_began_is_out_of_order() -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(), 0, at(0))
    assert reward.take(session.started(), 1, at(1)) == [Dropped(Drop.OUT_OF_ORDER)]


def test_equal_ids_with_other_content_are_contradictions() -> None:
    session, reward = Session(), assembly()
    first, thumb = session.asked(), session.said()
    reward.take(first, 0, at(0))
    reward.take(thumb, 1, at(1))
    odds: list[EventMessage] = [
        first.model_copy(update={"token_ids": [9, 9]}),
        first.model_copy(update={"event_id": uuid4(), "response": answer("5")}),
        first.model_copy(update={"completion_id": uuid4()}),
        thumb.model_copy(update={"value": -1.0}),
    ]
    for number, odd in enumerate(odds):
        assert reward.take(odd, 2 + number, at(2)) == [Dropped(Drop.CONTRADICTORY)]
    assert reward.take(first, 9, at(3)) == [Dropped(Drop.DUPLICATE)]
    assert reward.take(thumb, 9, at(3)) == [Dropped(Drop.DUPLICATE)]
    closed = only(reward.take(session.finished(), 10, at(4)))
    assert closed.trajectory.steps[0].token_ids == first.token_ids
    assert [term.value for term in closed.signals] == [1.0]


def test_a_start_with_another_task_is_a_contradiction() -> None:
    rollout, reward = Rollout(), assembly()
    started = rollout.started()
    reward.take(started, 0, at(0))
    odd = started.model_copy(update={"task": make_task(reference="5")})
    assert reward.take(odd, 1, at(1)) == [Dropped(Drop.CONTRADICTORY)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_feedback_that_is_no_number_is_dropped_open_or_closed(value: float) -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(), 0, at(0))
    assert reward.take(session.said(value), 1, at(1)) == [Dropped(Drop.SIGNAL_NOT_FINITE)]
    reward.take(session.finished(), 2, at(2))
    assert reward.take(session.said(value), 3, at(3)) == [Dropped(Drop.SIGNAL_NOT_FINITE)]


# -- late feedback


def test_late_feedback_asks_for_the_log_from_where_the_session_began() -> None:
    session, reward = Session(), assembly()
    reward.take(session.asked(), 5, at(0))
    reward.take(session.finished(), 6, at(1))
    assert reward.take(session.said(), 7, at(9)) == [Revisit(session.rollout_id, 5, 7)]
    assert reward.take(session.said(name="latency"), 8, at(9)) == [Dropped(Drop.LATE)]


def test_of_several_parts_the_one_is_read_that_the_completion_belongs_to() -> None:
    session, reward = Session(), assembly()
    born = UUID(int=(int(at(0).timestamp() * 1000) << 80) | (7 << 76) | (2 << 62))
    reward.take(session.asked(completion_id=born), 5, at(0))
    reward.take(session.asked(9000), 6, at(9000))
    reward.take(session.finished(), 7, at(9001))
    about_first = session.said(completion_id=born)
    assert reward.take(about_first, 8, at(9002)) == [Revisit(session.rollout_id, 5, 8)]
    assert reward.take(session.said(), 9, at(9003)) == [Revisit(session.rollout_id, 6, 9)]


def test_feedback_on_what_nobody_remembers_is_looked_for_as_far_as_a_session_can_reach() -> None:
    reward, session = Assembly(sessions=RULES, horizon_s=7 * 86_400), Session()
    now = at(30 * 86_400)
    assert reward.take(session.said(), 0, now) == [Revisit(session.rollout_id, now - timedelta(days=7), 0)]
    born = UUID(int=(int(at(29 * 86_400).timestamp() * 1000) << 80) | (7 << 76) | (2 << 62))
    named = session.said(completion_id=born)
    assert reward.take(named, 1, now) == [Revisit(session.rollout_id, at(29 * 86_400) - 5 * HOUR, 1)]


@pytest.mark.parametrize("millis", [0, 2**48 - 1])
def test_an_id_may_claim_any_time(millis: int) -> None:
    reward, session = Assembly(sessions=RULES), Session()
    anywhen = UUID(int=(millis << 80) | (7 << 76) | (2 << 62))
    (visit,) = reward.take(session.said(completion_id=anywhen), 0, at(0))
    assert isinstance(visit, Revisit)
    reward.take(session.asked(), 1, at(1))
    reward.take(session.finished(source="shop"), 2, at(2))
    (visit,) = reward.take(session.said(completion_id=anywhen), 3, at(3))
    assert isinstance(visit, Revisit)


def test_late_feedback_on_a_rollout_that_is_not_scored_by_feedback_changes_nothing() -> None:
    rollout, reward = Rollout(), assembly()
    reward.take(rollout.started(), 0, at(0))
    reward.take(rollout.finished(), 1, at(1))
    assert reward.take(rollout.signal(), 2, at(2)) == [Dropped(Drop.LATE)]


def test_a_composition_with_feedback_in_it_is_revised() -> None:
    spec = RewardSpec(name="clipped", params={"of": {"name": "feedback"}, "low": 0, "high": 1})
    rollout, reward = Rollout(task=make_task(reward=spec)), assembly()
    reward.take(rollout.started(), 3, at(0))
    reward.take(rollout.finished(), 4, at(1))
    assert reward.take(rollout.signal(), 5, at(2)) == [Revisit(rollout.rollout_id, 3, 5)]


def kept() -> Assembly:
    """An assembly that reads again."""
    return Assembly(sessions=RULES, keep=True)


def test_each_late_signal_makes_the_next_revision() -> None:
    session, reward = Session(), kept()
    first = session.asked()
    reward.take(first, 0, at(0))
    original = only(reward.take(session.finished(), 1, at(1))).trajectory
    thumb, word = session.said(), session.said(None, name="correction", completion_id=first.completion_id)

    up = only(reward.take(thumb, 2, at(2)))
    assert (up.offset, up.trajectory.revision) == (2, 1)
    assert [term.value for term in up.signals] == [1.0]
    assert up.trajectory.trajectory_id == cause_id("revision", original.trajectory_id, thumb.event_id)
    assert reward.take(thumb, 3, at(3)) == [Dropped(Drop.DUPLICATE)]

    corrected = only(reward.take(word, 4, at(4))).trajectory
    assert corrected.revision == 2
    assert [term.name for term in corrected.steps[0].terms] == ["signal.correction"]
    assert original.steps[0].terms == []
    assert corrected.group_id == original.group_id
    assert reward.take(session.said(tenant="other"), 5, at(5)) == [Dropped(Drop.OTHER_TENANT)]
    strange = session.said(completion_id=new_id())
    assert reward.take(strange, 6, at(6)) == [Dropped(Drop.UNKNOWN_COMPLETION)]


def test_a_late_comment_makes_no_revision_but_is_part_of_the_next() -> None:
    session, reward = Session(), kept()
    reward.take(session.asked(), 0, at(0))
    reward.take(session.finished(), 1, at(1))
    comment = session.said(None, name="comment", text="quick")
    assert reward.take(comment, 2, at(2)) == [Dropped(Drop.LATE)]
    revision = only(reward.take(session.said(), 3, at(3)))
    assert revision.trajectory.revision == 1
    assert [(term.name, term.feedback) for term in revision.signals] == [
        ("signal.comment", "quick"),
        ("signal.thumb", None),
    ]


def test_an_infrastructure_failure_stays_excluded_whatever_is_said_later() -> None:
    session, reward = Session(), kept()
    reward.take(session.asked(), 0, at(0))
    failed = session.finished(None, outcome=Outcome.INFRASTRUCTURE_FAILED)
    assert only(reward.take(failed, 1, at(1))).trajectory.excluded_reason == "infrastructure_failed"
    assert reward.take(session.said(), 2, at(2)) == [Dropped(Drop.LATE)]


# -- restarts


def test_what_was_open_before_and_is_published_stays_without_effect_to_its_end() -> None:
    session, before, reward = Session(), assembly(), assembly()
    first, rest = session.asked(), session.asked(60)
    before.take(first, 0, at(0))
    assert reward.may_go_on(rest)
    reward.remember(before)

    assert not reward.may_go_on(rest)
    assert len(reward) == 0
    assert reward.take(rest, 1, at(60)) == [Kept()]
    assert reward.take(session.finished(), 2, at(61)) == []
    opened, kept_ = reward.take(session.asked(70), 3, at(70))
    assert (opened, kept_) == (Opened(3), Kept())


def test_a_session_that_ended_before_begins_anew_after_it() -> None:
    session, before, reward = Session(), assembly(), assembly()
    before.take(session.asked(), 0, at(0))
    before.take(session.finished().model_copy(update={"occurred_at": at(5)}), 1, at(5))
    reward.remember(before)
    assert reward.take(session.asked(4), 2, at(6)) == [Dropped(Drop.LATE)]
    assert reward.take(session.asked(10), 3, at(10))[0] == Opened(3)


def test_a_prompt_that_leans_on_a_session_before_is_kept_in_part() -> None:
    session, reward = Session(), assembly()
    first = session.asked()
    reward.take(first, 0, at(0))
    leaning = session.asked(9000, base=PromptBase(completion_id=first.completion_id, tokens=2))
    ended, opened, kept_ = reward.take(leaning, 1, at(9000))
    assert isinstance(ended, Closed)
    assert (opened, kept_) == (Opened(1), KeptInPart())
