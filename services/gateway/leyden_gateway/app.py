"""The composition root: the only place that knows which concrete parts make a gateway."""

from collections.abc import Sequence

from leyden_gateway.api import Front
from leyden_gateway.attribution.gatekeeper import Gatekeeper
from leyden_gateway.control.admin import admin_server
from leyden_gateway.control.admission import Admission
from leyden_gateway.control.budget import CompletionBudget
from leyden_gateway.control.calls import Calls
from leyden_gateway.control.limits import TenantLimiter
from leyden_gateway.control.pause import Pause
from leyden_gateway.control.views import Controls, PolicyView, SpoolView
from leyden_gateway.exchange.exchange import Tools
from leyden_gateway.feedback.completions import Completions, RecentCompletions
from leyden_gateway.feedback.desk import Desk
from leyden_gateway.recording.delta import Conversations
from leyden_gateway.recording.recorder import Recorder
from leyden_gateway.recording.redaction import Redaction
from leyden_gateway.recording.refusals import Refusals
from leyden_gateway.recording.retries import Retries
from leyden_gateway.recording.spool import Spool
from leyden_gateway.routing.catalogue import Catalogue
from leyden_gateway.routing.changes import Changes
from leyden_gateway.routing.dispatch import Dispatcher
from leyden_gateway.routing.externals import Externals
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
    publisher = KafkaPublisher(settings.kafka, "gateway", timeout_s=settings.record_timeout_s)
    changes = Changes()
    upstream = Upstream(settings)
    replicas = Replicas(settings, upstream, changes)
    models = ModelsTable(settings.kafka, changes, replicas.expect_change)
    externals = Externals(settings.routing, changes.announce)
    router = Router(models, replicas, changes, park_timeout_s=settings.park_timeout_s)
    dispatcher = Dispatcher(router, replicas, upstream, settings.routing, attempts=settings.upstream_attempts)
    recording = settings.recording
    conversations = Conversations(
        memory_bytes=recording.delta_memory_bytes, horizon_s=recording.delta_horizon_s
    )
    spool = await Spool.open(recording, publisher)
    redaction = Redaction.of(settings.redaction)
    recorder = Recorder(publisher, conversations, redaction, spool)
    limiter, calls, pause = TenantLimiter(settings.control.tenant_limits), Calls(), Pause()
    budget = CompletionBudget(settings.budget_entries)
    gatekeeper = Gatekeeper(
        settings.attribution,
        settings.token,
        allow_anonymous=settings.allow_anonymous,
        known_policy=lambda policy: policy in models.table.versions,
    )
    drain_timeout_s = settings.drain_timeout_s / 2
    tools = Tools(settings, gatekeeper, externals, dispatcher, recorder, Retries(), pause)
    admission = Admission(limiter, budget, calls, max_in_flight=settings.max_in_flight)
    refusals = Refusals(recorder, recording.refusals_per_minute)
    completions = Completions(
        settings.kafka,
        RecentCompletions(settings.feedback.feedback_remember),
        longest_s=settings.request_timeout_s + settings.record_timeout_s,
        timeout_s=settings.feedback.feedback_lookup_timeout_s,
    )
    desk = Desk(
        gatekeeper,
        completions,
        limiter,
        redaction,
        publisher,
        spool,
        SystemClock(),
        conversations.forget,
        max_items=settings.feedback.feedback_max_items,
    )
    catalogue = Catalogue(models, replicas, externals, settings.attribution.model_aliases)
    front = Front(tools, admission, refusals, catalogue, desk, SystemClock())
    controls = Controls(replicas, PolicyView(models), SpoolView(spool), calls, limiter, pause)
    admin = admin_server(settings.control, controls, drain_timeout_s=drain_timeout_s)
    server = HttpServer(
        "gateway",
        front,
        settings.host,
        settings.port,
        drain_timeout_s=drain_timeout_s,
        share_port=settings.processes > 1,
    )
    server.bind()
    optional = [component for component in (spool, admin) if component is not None]
    return [publisher, upstream, models, replicas, *optional, server]
