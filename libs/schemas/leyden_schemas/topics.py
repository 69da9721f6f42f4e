"""The topics of the product, in one place; docs/contracts.md says who writes and reads each."""

from leyden_schemas.base import Topic


class Topics:
    """Every topic that ``leyden topics create`` makes."""

    TASKS = Topic("leyden.tasks.v1", partitions=4)
    ROLLOUTS = Topic("leyden.rollouts.v1", partitions=8)
    EVENTS = Topic("leyden.events.v1", partitions=8)
    TRAJECTORIES = Topic("leyden.trajectories.v1", partitions=4)
    RANKINGS = Topic("leyden.rankings.v1", partitions=4)
    SAMPLES = Topic("leyden.samples.v1", partitions=4)
    MODELS = Topic("leyden.models.v1", partitions=1, compacted=True)
    DEADLETTERS = Topic("leyden.deadletters.v1", partitions=1)

    ALL = (TASKS, ROLLOUTS, EVENTS, TRAJECTORIES, RANKINGS, SAMPLES, MODELS, DEADLETTERS)
