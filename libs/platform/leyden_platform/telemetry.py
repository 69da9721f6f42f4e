"""Logs as named events, traces that cross HTTP and Kafka, and one place for metric naming.

Spans are exported over OTLP when ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set; context is propagated either way.
"""

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import structlog
from opentelemetry import context, propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from leyden_platform.settings import LogSettings

_TRACER = "leyden"


def configure_logging(service: str, settings: LogSettings) -> None:
    """Send structlog and the standard library's loggers to stderr as one JSON object a line."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_id,
        lambda _logger, _name, event: {"service": service, **event},
    ]
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if settings.json_lines
        else [structlog.dev.ConsoleRenderer()]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLogger().level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    for noisy in ("aiokafka", "faststream", "uvicorn", "httpx", "httpcore", "alembic", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


def _add_trace_id(
    _logger: object, _name: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = f"{span.trace_id:032x}"
    return event


def configure_tracing(service: str) -> None:
    """Install the tracer provider; with an OTLP endpoint in the environment, export spans to it."""
    provider = TracerProvider(resource=Resource.create({"service.name": f"leyden-{service}"}))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        export_to(provider, BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


_exporting = False


def export_to(provider: TracerProvider, processor: SpanProcessor) -> None:
    """Hand every span of ``provider`` to ``processor``."""
    global _exporting
    provider.add_span_processor(processor)
    _exporting = True


def exporting() -> bool:
    """Whether anybody looks at spans; where calls cost microseconds, none is made for nobody."""
    return _exporting


def trace_headers() -> dict[str, str]:
    """The current span's W3C ``traceparent`` (and baggage) as headers; empty outside a span."""
    headers: dict[str, str] = {}
    if context.get_current():
        propagate.inject(headers)
    return headers


_UNSEEN = nullcontext(trace.INVALID_SPAN)


def span(
    name: str, headers: Mapping[str, str] | None = None, **attributes: str | int | float
) -> AbstractContextManager[trace.Span]:
    """A span, child of the context in ``headers`` when they carry one, else of the current span.

    Where nobody looks at spans none is made, and what is within belongs to the span that ``headers`` name.
    """
    if not _exporting and not (headers and "traceparent" in headers):
        return _UNSEEN
    return _span(name, headers, attributes)


@contextmanager
def _span(
    name: str, headers: Mapping[str, str] | None, attributes: Mapping[str, str | int | float]
) -> Iterator[trace.Span]:
    token = context.attach(propagate.extract(headers)) if headers and "traceparent" in headers else None
    try:
        if not _exporting:
            yield trace.get_current_span()
            return
        with trace.get_tracer(_TRACER).start_as_current_span(name, attributes=attributes) as current:
            yield current
    finally:
        if token is not None:
            context.detach(token)
