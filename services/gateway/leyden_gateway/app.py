"""The composition root: the only place that knows which concrete parts make a gateway."""

from collections.abc import Sequence

from leyden_gateway.api import create_app
from leyden_gateway.attribution.gatekeeper import Gatekeeper
from leyden_gateway.attribution.settings import AttributionSettings
from leyden_gateway.exchange.exchange import Tools
from leyden_gateway.recording.recorder import Recorder
from leyden_gateway.routing.catalogue import Catalogue
from leyden_gateway.routing.changes import Changes
from leyden_gateway.routing.dispatch import Dispatcher
from leyden_gateway.routing.models_table import ModelsTable
from leyden_gateway.routing.replicas import Replicas
from leyden_gateway.routing.router import Router
from leyden_gateway.settings import GatewaySettings
from leyden_gateway.upstream.client import Upstream
from leyden_platform.clock import SystemClock
from leyden_platform.http import HttpServer
from leyden_platform.messaging import KafkaPublisher
from leyden_platform.service import Component


async def build(settings: GatewaySettings) -> Sequence[Component]:
    """The components in the order they start; the HTTP server stops first and drains."""
    publisher = KafkaPublisher(settings.kafka, "gateway")
    changes = Changes()
    upstream = Upstream(settings)
    replicas = Replicas(settings, upstream, changes)
    models = ModelsTable(settings.kafka, changes, replicas.expect_change)
    router = Router(models, replicas, changes, park_timeout_s=settings.park_timeout_s)
    dispatcher = Dispatcher(router, replicas, upstream, attempts=settings.upstream_attempts)
    recorder = Recorder(publisher, timeout_s=settings.record_timeout_s)
    app = create_app(
        Tools(settings, dispatcher, recorder),
        Gatekeeper(AttributionSettings(), settings.token, allow_anonymous=settings.allow_anonymous),
        Catalogue(models, replicas),
        SystemClock(),
    )
    server = HttpServer(
        "gateway", app, settings.host, settings.port, drain_timeout_s=settings.drain_timeout_s / 2
    )
    server.bind()
    return [publisher, upstream, models, replicas, server]
