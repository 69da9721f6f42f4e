"""The session and the end user that a request's body names, in any of the protocols."""

from collections.abc import Mapping

from leyden_gateway.attribution.named import session_or_none


def session_of(request: Mapping[str, object]) -> str | None:
    """``conversation``, ``metadata.session_id``, ``user``, or ``metadata.user_id`` (Messages)."""
    conversation, metadata = request.get("conversation"), request.get("metadata")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    named = metadata if isinstance(metadata, dict) else {}
    candidates = (conversation, named.get("session_id"), request.get("user"), named.get("user_id"))
    return next((name for text in candidates if text and (name := session_or_none(text))), None)


def user_of(request: Mapping[str, object]) -> object:
    """``user``, which Messages calls ``metadata.user_id``; what stands there may be anything."""
    metadata = request.get("metadata")
    return request.get("user") or (metadata.get("user_id") if isinstance(metadata, dict) else None)
