"""The composition root of the reward service."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from leyden_platform.clock import Clock, SystemClock
from leyden_platform.messaging import ConsumerGroup, KafkaPublisher, Partition, ProcessorFactory, Publisher
from leyden_platform.service import Component
from leyden_reward.air.own import OwnRules, RuleWorkers
from leyden_reward.air.rules import rules
from leyden_reward.air.shaping import Shaping
from leyden_reward.assembly import Assembly
from leyden_reward.handlers import RewardProcessor
from leyden_reward.history import History, KafkaHistory, Past
from leyden_reward.ranking.groups import WaitingGroups
from leyden_reward.ranking.processor import RankingProcessor
from leyden_reward.ranking.ranking import Ranking
from leyden_reward.ranking.routed import Routed
from leyden_reward.rewards.grading import Grader, Workers
from leyden_reward.rewards.judging.client import JudgeClient
from leyden_reward.rewards.judging.judge import JudgeReward
from leyden_reward.rewards.judging.ruler import RulerReward
from leyden_reward.rewards.sandbox.python_tests import PythonTestsReward
from leyden_reward.rewards.sandbox.sandbox import Sandbox
from leyden_reward.rewards.workers import RewardWorkers
from leyden_reward.scoring import Scoring
from leyden_reward.settings import RewardSettings
from leyden_schemas import Topics


class AllWorkers(Workers, RuleWorkers, Protocol):
    """Where rewards and rules of the user run."""


async def build(settings: RewardSettings) -> Sequence[Component]:
    """The publisher, the workers with the user's functions imported, the judge, and the consumers.

    Raises ``CatalogueError`` when a reward function cannot be imported.
    """
    publisher = KafkaPublisher(settings.kafka, "reward")
    workers = reward_workers(settings)
    await workers.start()
    judge, clock = JudgeClient(settings.judge), SystemClock()
    consumer = ConsumerGroup(
        settings.kafka,
        topics=[Topics.EVENTS.name],
        group=settings.group,
        factory=processors(settings, workers, publisher, clock, judge=judge),
        publisher=publisher,
    )
    if settings.judge.url is None:
        return [publisher, workers, judge, consumer]
    ranker = ConsumerGroup(
        settings.kafka,
        topics=[Topics.RANKINGS.name],
        group=f"{settings.group}-ranking",
        factory=rankings(settings, workers, publisher, clock, judge),
        publisher=publisher,
    )
    return [publisher, workers, judge, consumer, ranker]


def rankings(
    settings: RewardSettings, workers: AllWorkers, publisher: Publisher, clock: Clock, judge: JudgeClient
) -> ProcessorFactory:
    """What brings the rollouts of a group together that are ranked against each other, by partition."""
    ranking = Ranking(scores(settings, workers, judge), judge, workers)

    def processor(_partition: Partition) -> RankingProcessor:
        groups = WaitingGroups(deadline_s=settings.ranking_deadline_s, remember=settings.remember)
        return RankingProcessor(groups=groups, ranking=ranking, publisher=publisher, clock=clock)

    return processor


def scores(settings: RewardSettings, workers: AllWorkers, judge: JudgeClient) -> Scoring:
    """Final and intermediate rewards."""
    return Scoring(
        final_rewards(settings, workers, judge),
        intermediate_rewards(settings),
        failed_reward=settings.failed_reward,
        scales=settings.sessions.feedback_scales,
        own_rules=OwnRules(workers, weights=settings.air_weights) if settings.air_cap else None,
    )


def final_rewards(settings: RewardSettings, workers: Workers, judge: JudgeClient) -> Grader:
    """Every reward there is, wherever it runs."""
    return Grader(
        workers,
        others={
            "judge": JudgeReward(judge),
            "ruler": RulerReward(judge),
            "python_tests": PythonTestsReward(Sandbox(settings.sandbox)),
        },
        databases=settings.databases,
        max_reward=settings.max_reward,
        ranks_later=settings.judge.url is not None,
    )


def reward_workers(settings: RewardSettings) -> RewardWorkers:
    """The processes that reward functions run in, not started."""
    return RewardWorkers(
        settings.catalogue,
        count=settings.workers,
        deadline_s=settings.deadline_s,
        startup_s=settings.startup_s,
        max_reward=settings.max_reward,
        memory_mb=settings.memory_mb,
    )


def intermediate_rewards(settings: RewardSettings) -> Shaping:
    """The rules and their bounds."""
    return Shaping(
        cap=settings.air_cap,
        goal=settings.air_goal,
        weights=settings.air_weights,
        rules=rules(token_limit=settings.air_token_limit, latency_budget_s=settings.air_latency_budget_s),
    )


def processors(
    settings: RewardSettings,
    workers: AllWorkers,
    publisher: Publisher,
    clock: Clock,
    history: History | None = None,
    judge: JudgeClient | None = None,
) -> ProcessorFactory:
    """What gives every assigned partition its own assembly; scoring is shared.

    ``history`` is where the log's past is read, by default the log of ``settings``. Rollouts whose reward is
    relative to their group are published for ``rankings``, if there is a judge.
    """
    judge = judge or JudgeClient(settings.judge)
    scoring, sessions = scores(settings, workers, judge), settings.sessions
    if settings.judge.url is not None:
        publisher = Routed(publisher, Ranking(scoring, judge, workers))
    assembly = partial(
        Assembly,
        grace_s=settings.grace_s,
        remember=settings.remember,
        signal_weights=settings.signal_weights,
        sessions=sessions.rules(),
        horizon_s=sessions.feedback_horizon_s,
        waiting_share=settings.waiting_share,
    )

    def processor(partition: Partition) -> RewardProcessor:
        return RewardProcessor(
            assembly=assembly(),
            past=Past(
                history or KafkaHistory(settings.kafka),
                partition,
                assembly,
                timeout_s=sessions.history_timeout_s,
            ),
            scoring=scoring,
            publisher=publisher,
            clock=clock,
            max_pending=settings.max_pending,
        )

    return processor
