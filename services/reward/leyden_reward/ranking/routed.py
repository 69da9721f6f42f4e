"""A publisher that sends rollouts that wait for their group to the topic on which groups come together."""

from leyden_platform.messaging import Publisher
from leyden_reward.ranking.ranking import Ranking
from leyden_schemas import Message, Topics, Trajectory


class Routed:
    """Publishes as ``publisher`` does, trajectories where ``ranking`` wants them."""

    def __init__(self, publisher: Publisher, ranking: Ranking) -> None:
        self._publisher, self._ranking = publisher, ranking
        self.publish_raw, self.publish_encoded = publisher.publish_raw, publisher.publish_encoded

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        """Return once all are acknowledged. Raises like the publisher."""
        for message in messages:
            waits = isinstance(message, Trajectory) and self._ranking.waits(message)
            await self._publisher.publish(
                message, topic=Topics.RANKINGS.name if waits and topic is None else topic
            )
