"""A streamed chat completion as the events of a streamed Response.

Text and arguments flow as they arrive. A text is done when the next item begins; the last item, every call,
and the Response itself are done only in ``end``, because agents act on these, and a call's arguments may
arrive interleaved with another's.
"""

from collections.abc import Sequence
from typing import Any

from leyden_platform.dialects.responses_object import (
    OUTPUT_TEXT,
    REASONING_TEXT,
    REFUSAL,
    CallItem,
    Part,
    PartKind,
    Status,
    TextItem,
    echo,
    final_status,
    incomplete_details,
    logprobs_of,
    response_error,
    told_error,
    usage_of,
)
from leyden_platform.dialects.responses_request import wants_logprobs
from leyden_platform.dialects.streamed_calls import call_index
from leyden_schemas import JsonObject

_ID_PREFIX = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class ResponsesStream:
    """One Response on its way to the caller, who sent ``request`` and it was accepted by ``to_chat``.

    Chunks go in until the chat stream has finished; then either ``end`` closes the Response or ``failed``
    does. Events of ``end`` may be thrown away for those of ``failed``. Ids of items derive from
    ``response_id``.
    """

    def __init__(self, request: JsonObject, *, response_id: str, created_at: int) -> None:
        self._request, self._response_id, self._created_at = request, response_id, created_at
        self._with_logprobs = wants_logprobs(request)
        self._status: Status = "in_progress"
        self._sequence = self._sent = 0
        self._model: str | None = None
        self._finish_reason: str | None = None
        self._usage: JsonObject | None = None
        self._error: JsonObject | None = None
        self._items: list[TextItem | CallItem] = []
        self._text: TextItem | None = None
        """The last item, if that is one of text: the only text that is not done."""
        self._calls: dict[int, CallItem] = {}
        self._pending_logprobs: list[JsonObject] = []
        """Those of tokens whose text has not arrived yet, such as the first half of a character."""

    def chunk(self, chunk: JsonObject) -> list[JsonObject]:
        """The events that one chat chunk amounts to. What is not of the protocol is passed over."""
        if isinstance(model := chunk.get("model"), str):
            self._model = self._model or model
        self._usage = usage_of(chunk.get("usage")) or self._usage
        events = self._opening()
        choice = _first_choice(chunk)
        if isinstance(reason := choice.get("finish_reason"), str):
            self._finish_reason = reason
        delta = choice.get("delta")
        if isinstance(delta, dict):
            events += self._deltas(delta, logprobs_of(choice) if self._with_logprobs else [])
        self._sent = self._sequence
        return events

    def end(self) -> list[JsonObject]:
        """The closing events, with all that an agent acts on. Once, after the last chunk."""
        events = self._opening()
        if not self._items:
            events += self._begin_part(OUTPUT_TEXT)[1]
        self._status = final_status(self._finish_reason)
        for item in self._items:
            if isinstance(item, CallItem):
                events += self._call_done(item)
            elif item is self._text:
                events += self._text_done(item)
        return [*events, self._event(f"response.{self._status}", response=self.response())]

    def failed(self, error: JsonObject) -> list[JsonObject]:
        """The closing events of a Response that broke; ``error`` is an OpenAI error object."""
        self._status, self._sequence = "in_progress", self._sent
        events = self._opening()
        told = told_error(error)
        self._status, self._error = "failed", response_error(told)
        events.append(self._event("error", **told))
        return [*events, self._event("response.failed", response=self.response())]

    def response(self) -> JsonObject:
        """The Response object, as far as it has come."""
        details = incomplete_details(self._finish_reason) if self._status == "incomplete" else None
        return {
            "id": self._response_id,
            "object": "response",
            "created_at": self._created_at,
            "status": self._status,
            "error": self._error,
            "incomplete_details": details,
            "model": self._model or self._request.get("model") or "",
            "output": [item.value(self._status_of(item)) for item in self._items],
            "usage": None if self._status == "in_progress" else self._usage,
            **echo(self._request),
        }

    def _status_of(self, item: TextItem | CallItem) -> Status:
        if isinstance(item, TextItem) and item is not self._text:
            return "completed"
        if self._status == "failed":
            return "incomplete"
        if self._status == "incomplete" and item is not self._items[-1]:
            return "completed"
        return self._status

    def _event(self, kind: str, **fields: Any) -> JsonObject:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _opening(self) -> list[JsonObject]:
        if self._sequence:
            return []
        return [
            self._event("response.created", response=self.response()),
            self._event("response.in_progress", response=self.response()),
        ]

    def _deltas(self, delta: JsonObject, logprobs: list[JsonObject]) -> list[JsonObject]:
        events: list[JsonObject] = []
        self._pending_logprobs += logprobs
        if reasoning := _string(delta, "reasoning") or _string(delta, "reasoning_content"):
            events += self._say(REASONING_TEXT, reasoning)
        if content := _string(delta, "content"):
            events += self._say(OUTPUT_TEXT, content, self._pending_logprobs)
        if refusal := _string(delta, "refusal"):
            events += self._say(REFUSAL, refusal)
        for piece in _objects(delta.get("tool_calls")):
            events += self._call(piece)
        if events:
            self._pending_logprobs = []
        return events

    def _say(self, kind: PartKind, text: str, logprobs: Sequence[JsonObject] = ()) -> list[JsonObject]:
        events: list[JsonObject] = []
        item = self._text
        if item is None or item.parts[-1].kind is not kind:
            item, events = self._begin_part(kind)
        part = item.parts[-1]
        part.pieces.append(text)
        part.logprobs += logprobs
        extra = {"logprobs": list(logprobs)} if kind is OUTPUT_TEXT else {}
        return [*events, self._part_event(f"{kind.event}.delta", item, delta=text, **extra)]

    def _begin_part(self, kind: PartKind) -> tuple[TextItem, list[JsonObject]]:
        """A new part, in the item at hand or in a new one, and the events of its beginning."""
        item = self._text
        if item is not None and item.type == kind.item:
            events = self._part_done(item)
        else:
            events = self._close_text()
            item = self._text = TextItem(kind.item, self._item_id(kind.item), len(self._items))
            events.append(self._begin_item(item))
        item.parts.append(part := Part(kind))
        events.append(self._part_event("response.content_part.added", item, part=part.value()))
        return item, events

    def _call(self, piece: JsonObject) -> list[JsonObject]:
        events: list[JsonObject] = []
        function = piece["function"] if isinstance(piece.get("function"), dict) else {}
        index = call_index(piece, {at: call.call_id for at, call in self._calls.items()})
        call = self._calls.get(index)
        if call is None:
            events = self._close_text()
            call = self._calls[index] = self._new_call(_string(piece, "id"), _string(function, "name"))
            events.append(self._begin_item(call))
        else:
            call.name += _string(function, "name")
        if arguments := _string(function, "arguments"):
            call.arguments.append(arguments)
            events.append(self._item_event("response.function_call_arguments.delta", call, delta=arguments))
        return events

    def _new_call(self, call_id: str, name: str) -> CallItem:
        item_id = self._item_id("function_call")
        return CallItem(item_id, len(self._items), call_id or item_id.replace("fc_", "call_", 1), name)

    def _begin_item(self, item: TextItem | CallItem) -> JsonObject:
        self._items.append(item)
        fields = {"output_index": item.output_index, "item": item.value("in_progress")}
        return self._event("response.output_item.added", **fields)

    def _close_text(self) -> list[JsonObject]:
        item, self._text = self._text, None
        return [] if item is None else self._text_done(item)

    def _text_done(self, item: TextItem) -> list[JsonObject]:
        return [*self._part_done(item), self._item_done(item)]

    def _part_done(self, item: TextItem) -> list[JsonObject]:
        part = item.parts[-1]
        fields: JsonObject = {part.kind.field: part.text}
        if part.kind is OUTPUT_TEXT:
            fields["logprobs"] = list(part.logprobs)
        return [
            self._part_event(f"{part.kind.event}.done", item, **fields),
            self._part_event("response.content_part.done", item, part=part.value()),
        ]

    def _call_done(self, call: CallItem) -> list[JsonObject]:
        fields = {"name": call.name, "arguments": "".join(call.arguments)}
        return [
            self._item_event("response.function_call_arguments.done", call, **fields),
            self._item_done(call),
        ]

    def _item_done(self, item: TextItem | CallItem) -> JsonObject:
        fields = {"output_index": item.output_index, "item": item.value(self._status_of(item))}
        return self._event("response.output_item.done", **fields)

    def _part_event(self, kind: str, item: TextItem, **fields: Any) -> JsonObject:
        return self._item_event(kind, item, content_index=len(item.parts) - 1, **fields)

    def _item_event(self, kind: str, item: TextItem | CallItem, **fields: Any) -> JsonObject:
        return self._event(kind, item_id=item.id, output_index=item.output_index, **fields)

    def _item_id(self, kind: str) -> str:
        return f"{_ID_PREFIX[kind]}_{self._response_id.removeprefix('resp_')}_{len(self._items)}"


def _first_choice(chunk: JsonObject) -> JsonObject:
    """The only choice: a Response is one answer."""
    return next((choice for choice in _objects(chunk.get("choices")) if choice.get("index", 0) == 0), {})


def _objects(items: Any) -> list[JsonObject]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _string(item: JsonObject, name: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else ""
