"""A streamed chat completion as the events of a streamed Message.

The protocol streams one content block after another, while chat chunks may carry the parts of several tool
calls in any order. The first block that is not finished flows; parts of later ones wait until it is.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from leyden_platform.dialects import messages_answer as answers
from leyden_platform.dialects.messages_arguments import json_object, tool_input
from leyden_platform.dialects.messages_errors import stream_error
from leyden_platform.dialects.streamed_calls import call_index
from leyden_schemas import JsonObject


@dataclass(slots=True)
class _Block:
    """One content block: what the caller has of it, and what waits."""

    kind: Literal["text", "thinking", "tool_use"]
    use_id: str = ""
    name: str = ""
    begun: bool = False
    ended: bool = False
    sent: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    def finished(self) -> bool:
        """Whether nothing can follow, given that another block was begun upstream."""
        if self.kind != "tool_use":
            return True
        arguments = "".join(self.sent).rstrip()
        return arguments.endswith("}") and json_object(arguments) is not None

    def start(self) -> JsonObject:
        """The block as it is announced, empty."""
        match self.kind:
            case "text":
                return answers.text_block("")
            case "thinking":
                return answers.thinking_block("", signature="")
            case "tool_use":
                return answers.tool_use_block(self.use_id, self.name)

    def delta(self, piece: str) -> JsonObject:
        """A piece of the block as it is sent."""
        match self.kind:
            case "text":
                return {"type": "text_delta", "text": piece}
            case "thinking":
                return {"type": "thinking_delta", "thinking": piece}
            case "tool_use":
                return {"type": "input_json_delta", "partial_json": piece}

    def seen(self) -> JsonObject:
        """The block as the caller has it so far."""
        said = "".join(self.sent)
        match self.kind:
            case "text":
                return answers.text_block(said)
            case "thinking":
                return answers.thinking_block(said, answers.SIGNATURE if self.ended else "")
            case "tool_use":
                return self.start() | {"input": tool_input(said)}


class MessagesStream:
    """Takes the chunks of one chat completion and gives the events of one Message.

    ``chunk`` gives what may reach the caller at once, ``end`` what lets it act: the end of the last block,
    the stop reason, the stop. Arguments flow as they were sampled, so those that are not JSON are the
    client's to notice; what follows a call's complete arguments when the next block has begun is left out.
    Text or reasoning that comes after another kind of block is a block of its own. Total: what a chunk
    lacks is skipped.
    """

    def __init__(self, request: JsonObject, *, message_id: str) -> None:
        self._request, self._id = request, message_id
        self._model = answers.model_of({}, request)
        self._started = False
        self._blocks: list[_Block] = []
        self._flowing = 0
        """Index of the first block that has not ended."""
        self._calls: dict[int, _Block] = {}
        self._usage: Any = None
        self._finish: Any = None
        self._matched: Any = None
        self._refused = False
        self._stop: tuple[str | None, str | None] = (None, None)

    def chunk(self, chunk: JsonObject) -> list[JsonObject]:
        """The events that one chunk brings about, ``message_start`` before the first."""
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = usage
        events = self._start(chunk)
        choice = answers.first_choice(chunk)
        if isinstance(delta := choice.get("delta"), dict):
            self._take(delta)
        if choice.get("finish_reason") is not None:
            self._finish, self._matched = choice["finish_reason"], choice.get("stop_reason")
        return events + self._flow()

    def end(self) -> list[JsonObject]:
        """The events that end the Message. Call it once, after the last chunk."""
        events = self._start({}) + self._flow(last=True)
        calls = ["".join(block.sent) for block in self._blocks if block.kind == "tool_use"]
        self._stop = answers.stopped(self._finish, self._matched, calls=calls, refused=self._refused)
        delta = {"stop_reason": self._stop[0], "stop_sequence": self._stop[1]}
        usage = answers.usage_of(self._usage)
        return [
            *events,
            {"type": "message_delta", "delta": delta, "usage": usage},
            {"type": "message_stop"},
        ]

    def failed(self, error: JsonObject) -> list[JsonObject]:
        """The event that says the stream broke, from an error body or object of either protocol."""
        return [stream_error(error)]

    def message(self) -> JsonObject:
        """The Message as the caller has seen it so far."""
        content = [block.seen() for block in self._blocks if block.begun]
        seen = answers.message(self._id, self._model, content, answers.usage_of(self._usage))
        return seen | {"stop_reason": self._stop[0], "stop_sequence": self._stop[1]}

    def _start(self, chunk: JsonObject) -> list[JsonObject]:
        if self._started:
            return []
        self._started = True
        self._model = answers.model_of(chunk, self._request)
        usage = self._usage_before(chunk) | {"output_tokens": 0}
        return [{"type": "message_start", "message": answers.message(self._id, self._model, [], usage)}]

    def _usage_before(self, chunk: JsonObject) -> JsonObject:
        """Tokens in, which servers that give the prompt's ids tell with their first chunk."""
        ids = chunk.get("prompt_token_ids")
        if self._usage is None and isinstance(ids, list):
            return answers.usage_of({"prompt_tokens": len(ids)})
        return answers.usage_of(self._usage)

    def _take(self, delta: JsonObject) -> None:
        if thought := answers.thought_of(delta):
            self._append("thinking", thought)
        if written := answers.written_of(delta):
            self._append("text", written)
            self._refused = self._refused or answers.is_refusal(delta)
        if delta.get("tool_calls"):
            for _position, call, function in answers.calls_of(delta):
                self._take_call(call, function)

    def _append(self, kind: Literal["text", "thinking"], piece: str) -> None:
        if not self._blocks or self._blocks[-1].kind != kind:
            self._blocks.append(_Block(kind))
        self._blocks[-1].waiting.append(piece)

    def _take_call(self, call: JsonObject, function: JsonObject) -> None:
        index = call_index(call, {at: block.use_id for at, block in self._calls.items()})
        if (block := self._calls.get(index)) is None:
            block = self._calls[index] = _Block("tool_use", answers.call_id(call, index, self._id))
            self._blocks.append(block)
        if not block.name and isinstance(name := function.get("name"), str):
            block.name = name
        if isinstance(piece := function.get("arguments"), str) and piece:
            block.waiting.append(piece)

    def _flow(self, *, last: bool = False) -> list[JsonObject]:
        """Send what waits, up to the first block that may go on; with ``last``, none may."""
        events: list[JsonObject] = []
        while self._flowing < len(self._blocks):
            block = self._blocks[self._flowing]
            if block.kind == "tool_use" and not block.name and not last:
                break
            events += self._send(block)
            followed = self._flowing + 1 < len(self._blocks)
            if not last and not (followed and block.finished()):
                break
            events += self._stop_block(block)
            self._flowing += 1
        return events

    def _send(self, block: _Block) -> list[JsonObject]:
        events: list[JsonObject] = []
        if not block.begun:
            block.begun = True
            start = {"type": "content_block_start", "index": self._flowing, "content_block": block.start()}
            events.append(start)
        if block.waiting:
            piece = "".join(block.waiting)
            block.sent.append(piece)
            block.waiting.clear()
            events.append(self._delta(block.delta(piece)))
        return events

    def _stop_block(self, block: _Block) -> list[JsonObject]:
        block.ended = True
        stop = {"type": "content_block_stop", "index": self._flowing}
        if block.kind != "thinking":
            return [stop]
        return [self._delta({"type": "signature_delta", "signature": answers.SIGNATURE}), stop]

    def _delta(self, delta: JsonObject) -> JsonObject:
        return {"type": "content_block_delta", "index": self._flowing, "delta": delta}
