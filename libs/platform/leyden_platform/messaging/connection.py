"""One translation from our settings to the client library's options."""

import ssl
from typing import Any

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from leyden_platform.messaging.errors import MessagingError
from leyden_platform.settings import KafkaSettings


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments every aiokafka client takes."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "security_protocol": settings.security_protocol,
        "client_id": "leyden",
    }
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _context(settings)
    if settings.security_protocol.startswith("SASL"):
        password = settings.sasl_password
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": password.get_secret_value() if password else None,
        }
    return options


def broker_options(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments of a FastStream ``KafkaBroker``."""
    return {
        "bootstrap_servers": settings.bootstrap,
        "client_id": "leyden",
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
        "allow_auto_create_topics": False,
        "security": _security(settings),
    }


def _security(settings: KafkaSettings) -> BaseSecurity | None:
    uses_ssl = settings.security_protocol.endswith("SSL")
    context = _context(settings) if uses_ssl else None
    if not settings.security_protocol.startswith("SASL"):
        return BaseSecurity(context, use_ssl=True) if uses_ssl else None
    kinds = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    password = settings.sasl_password.get_secret_value() if settings.sasl_password else ""
    return kinds[settings.sasl_mechanism](
        username=settings.sasl_username or "", password=password, ssl_context=context, use_ssl=uses_ssl
    )


def _context(settings: KafkaSettings) -> ssl.SSLContext:
    """Raises ``MessagingError`` when the authority's certificate cannot be read."""
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise MessagingError(
            f"LEYDEN_KAFKA_CA_FILE: {settings.ca_file} is no PEM certificate that can be read: {error}"
        ) from error
