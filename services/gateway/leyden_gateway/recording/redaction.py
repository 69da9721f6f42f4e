"""The user's redaction hook: what of a call's content may reach the log.

Whatever the hook does not positively pass on stays out of the log: a payload whose redaction fails, or takes
too long, is withheld. So are the token ids and log-probabilities of anything redacted, because they decode
to the text.
"""

import asyncio
import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self, assert_never, cast

import structlog
from msgspec import Raw
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from leyden_gateway import metrics
from leyden_gateway.attribution.body import session_of
from leyden_gateway.exchange.fields import decoded, encode, of
from leyden_gateway.recording.hook_threads import HookRaised, HookThreads
from leyden_platform.settings import CatalogueSettings
from leyden_schemas import JsonObject

log = structlog.get_logger(__name__)

Hook = Callable[[str, JsonObject], JsonObject | Awaitable[JsonObject | None] | None]
Record = dict[str, Any]

_TELLING = frozenset({"logprobs", "token_ids", "prompt_token_ids", "prompt_logprobs"})
"""Members of an answer that decode to its text."""


class BadRedactionHook(ValueError):
    """The hook that is configured cannot be used; the text says why."""


class RedactionSettings(BaseSettings):
    """The hook and its limits (``LEYDEN_GATEWAY_REDACT…``)."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_GATEWAY_", frozen=True, extra="ignore")

    catalogue: CatalogueSettings = Field(default_factory=CatalogueSettings)
    redact: str | None = Field(
        default=None,
        pattern=r"^[\w.]+:\w+$",
        description='"module:function", found like rewards (LEYDEN_CATALOGUE_PATH): '
        "redact(kind, payload) returns what may be logged, None to log nothing of it.",
    )
    redact_timeout_s: float = Field(
        default=1.0, gt=0, description="A payload whose redaction takes longer is withheld from the log."
    )
    redact_keep_ids: bool = Field(
        default=False,
        description="Log the token ids of redacted calls, which decode to the text, and train on them.",
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """The hook passed the payload on as it was."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """The hook changed the payload, or (None) wants none of it logged."""

    payload: JsonObject | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The hook did not answer, or with something else than a payload."""

    why: str


Verdict = Kept | Redacted | Failed


class Redaction:
    """Asks the hook about every record before it is put on the log."""

    def __init__(self, hook: Hook, *, timeout_s: float, keep_ids: bool) -> None:
        self._hook, self._timeout_s, self._keep_ids = hook, timeout_s, keep_ids
        self._threads = None if inspect.iscoroutinefunction(hook) else HookThreads()

    @classmethod
    def of(cls, settings: RedactionSettings) -> Self | None:
        """The configured hook, imported; None when there is none. Raises ``BadRedactionHook``."""
        if settings.redact is None:
            return None
        hook = load_hook(settings.redact, settings.catalogue.path)
        return cls(hook, timeout_s=settings.redact_timeout_s, keep_ids=settings.redact_keep_ids)

    async def apply(self, record: Record) -> Record:
        """The fields of a ``CompletionRecorded`` as they may be logged; the whole prompt, not yet a delta.

        Values are plain or raw JSON. An error's text is asked about as ``{"error": text}``.
        """
        request = await self._ask("request", record["request"])
        response = await self._ask("response", record["response"])
        error = await self._ask("response", {"error": record["error"]} if record["error"] else None)
        verdicts = (request, response, error)
        if all(isinstance(verdict, Kept) for verdict in verdicts):
            return record
        failed = any(isinstance(verdict, Failed) for verdict in verdicts)
        keep_ids = self._keep_ids and not failed
        redacted = record | _texts(record, request, response, error, keep_ids=keep_ids)
        return redacted if keep_ids else redacted | _without_ids(record, failed=failed)

    async def feedback(self, texts: JsonObject) -> JsonObject:
        """The texts of feedback, by name, as they may be logged; what is withheld says so."""
        verdict = await self._ask("feedback", texts)
        if isinstance(verdict, Kept):
            return texts
        shown = _payload(verdict) or {}
        return {
            name: shown[name] if isinstance(shown.get(name), type(text)) else "(redacted)"
            for name, text in texts.items()
        }

    async def _ask(self, kind: str, payload: Any) -> Verdict:
        if payload is None:
            return Kept()
        verdict = await self._judge(kind, payload)
        outcome = _outcome(verdict)
        metrics.REDACTED.labels(kind, outcome).inc()
        if isinstance(verdict, Failed):
            log.warning("redaction_failed", kind=kind, error=verdict.why)
        return verdict

    async def _judge(self, kind: str, payload: Any) -> Verdict:
        """The hook gets a copy, so that what it changes in place counts as changed."""
        copy = decoded(encode(payload))
        before = encode(copy)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._call(kind, copy)
            if answer is None:
                return Redacted(None)
            after = encode(answer)
        except TimeoutError:
            return Failed(f"no answer within {self._timeout_s:g} s")
        except HookRaised as error:
            return Failed(str(error))
        except Exception as error:  # noqa: BLE001 - user code; its text may quote the payload
            return Failed(type(error).__name__)
        if not isinstance(answer, dict):
            return Failed(f"returned {type(answer).__name__} instead of a dict or None")
        return Kept() if after == before else Redacted(answer)

    async def _call(self, kind: str, payload: JsonObject) -> object:
        if self._threads is None:
            return await cast("Awaitable[object]", self._hook(kind, payload))
        answer = await self._threads.run(self._hook, kind, payload)
        return await answer if inspect.isawaitable(answer) else answer


def load_hook(target: str, path: list[str]) -> Hook:
    """The function that ``module:function`` names. Raises ``BadRedactionHook``."""
    sys.path[:0] = [folder for folder in path if folder not in sys.path]
    module, _, function = target.partition(":")
    try:
        hook = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise BadRedactionHook(
            f"LEYDEN_GATEWAY_REDACT: cannot import {target!r} ({type(error).__name__}: {error}); "
            "its folder belongs into LEYDEN_CATALOGUE_PATH"
        ) from error
    if not callable(hook):
        raise BadRedactionHook(f"LEYDEN_GATEWAY_REDACT: {target!r} is not a function")
    return cast("Hook", hook)


def _outcome(verdict: Verdict) -> str:
    match verdict:
        case Kept():
            return "kept"
        case Redacted(None):
            return "withheld"
        case Redacted():
            return "redacted"
        case Failed():
            return "failed"
        case _:
            assert_never(verdict)


def _texts(
    record: Record, request: Verdict, response: Verdict, error: Verdict, *, keep_ids: bool
) -> dict[str, Any]:
    """The fields that hold what was said, as far as they change."""
    fields: dict[str, Any] = {}
    if not isinstance(request, Kept):
        asked = _payload(request) or {}
        fields |= {"request": of(asked)} | _who(record, asked)
    if not isinstance(response, Kept):
        fields["response"] = _payload(response)
    if not isinstance(error, Kept):
        text = (_payload(error) or {}).get("error")
        fields["error"] = text if isinstance(text, str) else "(redacted)"
    if not keep_ids and record["response"] is not None:
        shown = fields.get("response", record["response"])
        fields["response"] = _untelling(decoded(encode(shown)))
    return fields


def _payload(verdict: Verdict) -> JsonObject | None:
    return verdict.payload if isinstance(verdict, Redacted) else None


def _who(record: Record, asked: JsonObject) -> dict[str, Any]:
    """User and session, if the request had named them, as the redacted request names them."""
    original = decoded(encode(record["request"]))
    fields: dict[str, Any] = {}
    if record.get("user") is not None:
        user = asked.get("user")
        fields["user"] = user if isinstance(user, str) else None
    if record.get("session") is not None and record["session"] == session_of(original):
        fields["session"] = session_of(asked)
    return fields


def _without_ids(record: Record, *, failed: bool) -> dict[str, Any]:
    reason = "redaction_failed" if failed else "redacted"
    none = Raw(b"[]")
    return {
        "untrainable": record["untrainable"] or reason,
        "prompt_token_ids": none,
        "token_ids": none,
        "logprobs": [],
    }


def _untelling(value: Any) -> Any:
    """A payload without the members that decode to its text."""
    if isinstance(value, list):
        return [_untelling(item) for item in value]
    if isinstance(value, dict):
        return {name: _untelling(item) for name, item in value.items() if name not in _TELLING}
    return value
