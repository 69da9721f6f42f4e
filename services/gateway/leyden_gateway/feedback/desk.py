"""``POST /v1/feedback``: who may give it, what it is about, and on to the log before it is confirmed."""

from collections.abc import Callable, Sequence

import structlog

from leyden_gateway import metrics
from leyden_gateway.attribution.context import named_by_headers
from leyden_gateway.attribution.gatekeeper import Gatekeeper
from leyden_gateway.attribution.keys import ApiKey
from leyden_gateway.attribution.named import Named
from leyden_gateway.attribution.sessions import session_rollout
from leyden_gateway.control.limits import TenantLimiter
from leyden_gateway.errors import (
    BodyTimedOut,
    CompletionNotFound,
    InvalidRequest,
    RecordingUnavailable,
    RecordTooLarge,
)
from leyden_gateway.exchange.caller import Caller
from leyden_gateway.feedback.completions import Completions, Origin
from leyden_gateway.feedback.events import Giver, Target, events_of, identity
from leyden_gateway.feedback.items import Item, parse_items
from leyden_gateway.recording.delta import Attempt
from leyden_gateway.recording.record import Call
from leyden_gateway.recording.redaction import Redaction
from leyden_gateway.recording.spool import Spool
from leyden_platform.clock import Clock
from leyden_platform.messaging import Publisher, PublishFailed, Rejected
from leyden_platform.messaging.publisher import cloud_event_headers
from leyden_schemas import JsonObject, Message, Topics, encode

log = structlog.get_logger(__name__)

ROUTE = "/v1/feedback"
MAX_BODY_BYTES = 1024 * 1024
_TEXTS = ("correction", "comment", "output")


class Desk:
    """Takes feedback in.

    What is said of a whole session may end it; ``forget`` keeps later prompts from leaning on earlier ones.
    """

    def __init__(
        self,
        gatekeeper: Gatekeeper,
        completions: Completions,
        limiter: TenantLimiter,
        redaction: Redaction | None,
        publisher: Publisher,
        spool: Spool | None,
        clock: Clock,
        forget: Callable[[Attempt], None],
        *,
        max_items: int,
    ) -> None:
        self._gatekeeper, self._completions, self._limiter = gatekeeper, completions, limiter
        self._redaction, self._publisher, self._spool, self._clock = redaction, publisher, spool, clock
        self._forget, self._max_items = forget, max_items

    def answered(self, call: Call) -> None:
        """Remember where a completion was recorded, because its caller may soon judge it."""
        whose = call.attribution
        origin = Origin(whose.tenant, whose.run, whose.rollout_id)
        self._completions.recent.remember(call.completion_id, origin)

    async def take(self, path: Named, caller: Caller, *, within_s: float) -> JsonObject:
        """Record what the caller says; return what it is told. Nothing is recorded unless all of it can be.

        The request must arrive ``within_s``. Raises ``ApiError``.
        """
        key = self._gatekeeper.feedback_key(caller.headers)
        self._limiter.admit(key.grant.tenant)
        try:
            async with caller:
                caller.expect(within_s, BodyTimedOut(f"the feedback did not arrive within {within_s:g} s"))
                body = await caller.body(limit=MAX_BODY_BYTES)
            said, batch = parse_items(body, at_most=self._max_items)
            items = _identified(said, caller.header(b"idempotency-key"))
            targets = await self._targets(items, named_by(path, caller), key)
            answers = await self._record(items, targets, key)
        finally:
            self._limiter.finish(key.grant.tenant, 0)
        return {"object": "list", "data": answers} if batch else answers[0]

    async def _targets(self, items: Sequence[Item], where: Named, key: ApiKey) -> list[Target]:
        return [
            await self._target(item, where, key, f"feedback[{index}]") for index, item in enumerate(items)
        ]

    async def _target(self, item: Item, where: Named, key: ApiKey, place: str) -> Target:
        """By what the item says, else what path and headers say, else what the completion or the key does."""
        tenant, run = key.grant.tenant, key.grant.run
        session = item.session or (None if item.rollout_id else where.session)
        if session:
            return Target(session_rollout(tenant, run, session), item.completion_id)
        if rollout_id := item.rollout_id or where.rollout_id:
            return Target(rollout_id, item.completion_id)
        if item.completion_id:
            origin = await self._completions.origin(item.completion_id)
            if (origin.tenant, origin.run) != (tenant, run):
                raise CompletionNotFound(f"completion {item.completion_id} is not known to this key")
            return Target(origin.rollout_id, item.completion_id)
        if key.grant.session == "key":
            return Target(session_rollout(tenant, run, f"key:{key.name}"))
        raise InvalidRequest(
            f"{place} is about nothing: give session, rollout_id or completion_id", param=place
        )

    async def _record(
        self, items: Sequence[Item], targets: Sequence[Target], key: ApiKey
    ) -> list[JsonObject]:
        giver = Giver(key.name, key.grant.tenant, key.grant.run)
        answers = []
        for item, target in zip(items, targets, strict=True):
            mark = identity(item, target, giver)
            kept = await self._redacted(item)
            events = events_of(kept, target, giver, identity=mark, now=self._clock.now())
            for event in events:
                await self._put(event)
                metrics.FEEDBACK.labels(event.type).inc()
            if target.completion_id is None:
                self._forget((target.rollout_id, 1))
            answers.append(_answer(item, target, str(mark)))
        return answers

    async def _redacted(self, item: Item) -> Item:
        texts = {name: text for name in _TEXTS if (text := getattr(item, name)) is not None}
        if self._redaction is None or not texts:
            return item
        return item.model_copy(update=await self._redaction.feedback(texts))

    async def _put(self, event: Message) -> None:
        """On the log; while Kafka is away on disk, behind what the session has there."""
        key = event.key()
        headers = [(k, v.encode()) for k, v in cloud_event_headers(event, "gateway", key).items()]
        record = Topics.EVENTS.name, key.encode(), encode(event), headers
        try:
            if self._spool is not None and self._spool.wants(key.encode()):
                await self._spool.put(*record)
                return
            await self._publisher.publish_encoded(*record)
        except Rejected as error:
            raise RecordTooLarge(str(error)) from None
        except PublishFailed as error:
            if self._spool is None:
                raise RecordingUnavailable(
                    f"the feedback could not be recorded, send it again: {error}"
                ) from None
            await self._spool.put(*record)


def named_by(path: Named, caller: Caller) -> Named:
    """What the path names, else the headers."""
    header = named_by_headers(caller.headers)
    return path if path.session or path.rollout_id else header


def _identified(items: Sequence[Item], idempotency_key: str | None) -> Sequence[Item]:
    """Items without an id of their own have that of the request, if it has one."""
    if not idempotency_key:
        return items
    return [
        item if item.id else item.model_copy(update={"id": f"{idempotency_key[:150]}/{index}"})
        for index, item in enumerate(items)
    ]


def _answer(item: Item, target: Target, mark: str) -> JsonObject:
    completion = str(target.completion_id) if target.completion_id else None
    return {
        "object": "feedback",
        "id": item.id or mark,
        "rollout_id": str(target.rollout_id),
        "completion_id": completion,
        "finished": item.finish,
    }
