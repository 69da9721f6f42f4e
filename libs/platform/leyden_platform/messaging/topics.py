"""Creating topics, once and idempotently."""

from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from leyden_platform.messaging.connection import client_options
from leyden_platform.messaging.errors import Unavailable
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Topic


async def ensure_topics(settings: KafkaSettings, topics: Iterable[Topic]) -> list[str]:
    """Create the topics that do not exist; return the names of those created.

    Raises ``Unavailable`` when the broker cannot be reached or refuses.
    """
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        missing = [topic for topic in topics if topic.name not in existing]
        created = []
        for topic in missing:
            response = await admin.create_topics([_new_topic(topic, settings)])
            for name, code, *_rest in response.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise Unavailable(f"cannot create topic {name}: {error.__name__}: {_rest}")
                created.append(name)
        return created
    except KafkaError as error:
        raise Unavailable(f"cannot create topics at {settings.bootstrap}: {error}") from error
    finally:
        await admin.close()


def _new_topic(topic: Topic, settings: KafkaSettings) -> NewTopic:
    config = {"max.message.bytes": str(settings.max_message_bytes)}
    if topic.compacted:
        config["cleanup.policy"] = "compact"
    else:
        config["retention.ms"] = str(topic.retention_hours * 3_600_000)
    return NewTopic(topic.name, topic.partitions, settings.replication_factor, topic_configs=config)
