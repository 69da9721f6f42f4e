"""The composition root of the credit service."""

from collections.abc import Sequence

from leyden_credit.alone import Alone
from leyden_credit.crediting import Crediting
from leyden_credit.estimators import chosen
from leyden_credit.groups import Groups
from leyden_credit.handlers import CreditProcessor
from leyden_credit.settings import CreditSettings
from leyden_platform.clock import Clock, SystemClock
from leyden_platform.messaging import ConsumerGroup, KafkaPublisher, Partition, ProcessorFactory, Publisher
from leyden_platform.service import Component
from leyden_schemas import Topics

_LEAST_BYTES = 2
"""What a token takes in a message: a digit and a comma."""


async def build(settings: CreditSettings) -> Sequence[Component]:
    """The publisher, and the consumer of trajectories."""
    publisher = KafkaPublisher(settings.kafka, "credit")
    consumer = ConsumerGroup(
        settings.kafka,
        topics=[Topics.TRAJECTORIES.name],
        group=settings.group,
        factory=processors(settings, publisher, SystemClock()),
        publisher=publisher,
    )
    return [publisher, consumer]


def processors(settings: CreditSettings, publisher: Publisher, clock: Clock) -> ProcessorFactory:
    """What gives every assigned partition its own groups; how they are credited is shared."""
    estimators = crediting(settings)

    def processor(_partition: Partition) -> CreditProcessor:
        groups = Groups(deadline_s=settings.deadline_s, remember=settings.remember)
        return CreditProcessor(groups=groups, crediting=estimators, publisher=publisher, clock=clock)

    return processor


def crediting(settings: CreditSettings) -> Crediting:
    """The estimators that the settings name."""

    return Crediting(
        chosen(settings.estimator),
        by_policy={policy: chosen(choice) for policy, choice in settings.estimators.items()},
        air=settings.air_weight,
        agents=frozenset(settings.agents),
        alone=None if settings.alone_baseline is None else Alone(baseline=settings.alone_baseline),
        most_tokens=settings.kafka.max_message_bytes // _LEAST_BYTES,
    )
