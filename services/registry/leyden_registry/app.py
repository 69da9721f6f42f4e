"""The composition root: which concrete parts make a registry."""

from collections.abc import Sequence

from leyden_platform.database import Order, OutboxRelay, create_engine, migrate
from leyden_platform.http import HttpServer
from leyden_platform.messaging import KafkaPublisher
from leyden_platform.service import Component
from leyden_registry.api import registry_app
from leyden_registry.connection import KafkaLink
from leyden_registry.inspection import ArtifactInspector
from leyden_registry.registry import Registry
from leyden_registry.settings import RegistrySettings
from leyden_registry.tables import SCHEMA, outbox


async def build(settings: RegistrySettings) -> Sequence[Component]:
    """Migrate, announce what is known, and return the parts in the order they start."""
    await migrate(settings.database, "leyden_registry", SCHEMA)
    engine = create_engine(settings.database)
    publisher = KafkaPublisher(settings.kafka, "registry")
    relay = OutboxRelay(engine, outbox, publisher, "registry", order=Order.ID)
    inspector = ArtifactInspector(
        settings.artifact_root,
        settings.objects,
        url=settings.artifact_url,
        timeout_s=settings.artifact_timeout_s,
        concurrency=settings.verify_concurrency,
    )
    registry = Registry(engine, inspector, relay.wake, retire_after_s=settings.retire_after_s)
    if settings.announce_on_start:
        await registry.announce()
    app = registry_app(registry, max_body_bytes=settings.max_body_bytes)
    return [KafkaLink(publisher), relay, HttpServer("http", app, settings.host, settings.port)]
