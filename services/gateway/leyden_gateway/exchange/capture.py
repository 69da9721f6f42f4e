"""What a replica's answer says: sampled ids, log-probabilities, text, tool calls, why it ended.

One ``Capture`` takes in a whole answer, or the chunks of a streamed one, and gives back what of it the caller
may see: the answer without what only the gateway had asked for. Token ids stay the JSON text they came as.
Chat completions and text completions differ only in where they keep things, so one capture reads both.
"""

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import msgspec
from msgspec import Raw

from leyden_gateway.errors import MalformedAnswer
from leyden_gateway.exchange.fields import (
    NULL,
    Fields,
    NotJson,
    decoded,
    encode,
    fields_of,
    is_present,
    objects,
    value,
)
from leyden_gateway.exchange.lifting import STAND_IN, Token
from leyden_gateway.exchange.training_mode import Wants
from leyden_platform.dialects.streamed_calls import call_index
from leyden_schemas import JsonObject


class _Logprobs(msgspec.Struct):
    """Chat completions list objects under ``content``, text completions numbers under ``token_logprobs``."""

    content: list[Token] | None = None
    token_logprobs: list[float | None] | None = None


_logprobs = msgspec.json.Decoder(_Logprobs)
_index = msgspec.json.Decoder(int)
_NAN = float("nan")
_BARE_ERROR = Raw(b'"error"')
"""The ``object`` of an error that is not inside ``error``, as older vLLM and SGLang send it."""
_string = msgspec.json.Decoder(str | None)


@dataclass(slots=True)
class ChoiceCapture:
    """One alternative of an answer."""

    index: int
    fields: Fields | None = None
    """The alternative as the caller saw it; None while it is put together from chunks."""
    message: JsonObject = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    prompt_ids: bytes = b""
    ids: list[bytes] = field(default_factory=list)
    """Pieces of the sampled ids: JSON numbers with commas between them."""
    sampled: int = 0
    """How many ids were sampled."""
    logprobs: list[float] = field(default_factory=list)
    """One per sampled token if the replica kept the protocol; NaN where it sent something else."""
    problem: str | None = None
    """What is wrong with its logprobs: ``logprobs_mismatch`` or ``logprobs_not_finite``."""
    finish_reason: str | None = None

    def take(self, item: Fields, lifted: list[float] | None = None) -> None:
        """Take in the ids, log-probabilities and finish reason that a choice, whole or partial, carries.

        ``lifted`` are the log-probabilities that ``lift`` found, if this choice has the stand-in for them.
        """
        if ids := id_text(item.get("token_ids")):
            self.ids.append(ids)
            self.sampled += ids.count(b",") + 1
        if prompt := id_text(item.get("prompt_token_ids")):
            self.prompt_ids = b"[%b]" % prompt
        if (logprobs := item.get("logprobs")) is not None:
            if lifted is not None and logprobs == STAND_IN:
                self.logprobs = lifted
            else:
                self._take_logprobs(logprobs)
        if (reason := item.get("finish_reason")) is not None:
            self.finish_reason = _text(reason) or self.finish_reason

    def _take_logprobs(self, raw: Raw) -> None:
        if raw == NULL:
            return
        try:
            logprobs = _logprobs.decode(raw)
        except msgspec.MsgspecError:
            self.problem = "logprobs_not_finite"
            return
        if logprobs.content:
            self.logprobs.extend([token.logprob for token in logprobs.content])
        elif logprobs.token_logprobs:
            self.logprobs.extend([_NAN if value is None else value for value in logprobs.token_logprobs])

    @property
    def token_ids(self) -> bytes:
        """The sampled ids as a JSON array."""
        return b"[%b]" % b",".join(self.ids)

    def trouble(self) -> str | None:
        """Why its log-probabilities cannot be trained on; None when there is a finite one for each token."""
        if self.problem:
            return self.problem
        if len(self.logprobs) != self.sampled:
            return "logprobs_mismatch"
        return None if isfinite(sum(self.logprobs)) else "logprobs_not_finite"


@dataclass(slots=True)
class Capture:
    """Everything recorded of one answer."""

    prompt_ids: bytes = b""
    """The prompt's ids as a JSON array, empty while none are known."""
    prompt_size: int = 0
    """How many these are."""
    choices: dict[int, ChoiceCapture] = field(default_factory=dict)
    usage: JsonObject | None = None
    error: str | None = None
    head: Fields = field(default_factory=dict)
    """The answer's own id, kind, creation time and model."""
    whole_response: Fields | None = None

    def whole(self, answer: Fields, wants: Wants, lifted: list[float] | None = None) -> Fields:
        """Take in a complete answer; what the caller may see of it. Raises ``MalformedAnswer``."""
        items = self._common(answer)
        if not items and self.error is None:
            raise MalformedAnswer("the replica's answer has no choices")
        visible = []
        for item in items:
            choice = self._choice(item)
            choice.take(item, lifted)
            choice.fields = strip_choice(item, wants)
            visible.append(choice.fields)
        self.whole_response = strip_answer(answer, items, visible, wants)
        return self.whole_response

    def chunk(self, answer: Fields, wants: Wants) -> Fields | None:
        """Take in one chunk; what the caller may see of it, the same object if that is all of it.

        None when nothing is left, because it only carried usage. Raises ``MalformedAnswer``.
        """
        items = self._common(answer)
        if not items and answer.get("object") == _BARE_ERROR:
            return {"error": Raw(encode(answer))}
        visible = []
        for item in items:
            choice = self._choice(item)
            choice.take(item)
            if delta := fields_of(item.get("delta")):
                merge_delta(choice.message, delta)
            if piece := item.get("text"):
                choice.text.append(_text(piece) or "")
            visible.append(strip_choice(item, wants))
        if not items and not wants.usage and "usage" in answer and "error" not in answer:
            return None
        seen = strip_answer(answer, items, visible, wants)
        if not wants.usage and "usage" in seen:
            seen = {name: raw for name, raw in seen.items() if name != "usage"}
        return seen

    def passed(self, answer: Fields) -> None:
        """Take in an answer that is no completion: all of it but its data."""
        self._take_usage(answer)
        self.whole_response = {name: raw for name, raw in answer.items() if name != "data"}

    def _take_usage(self, answer: Fields) -> None:
        if is_present(answer, "usage") and isinstance(usage := value(answer, "usage"), dict):
            self.usage = usage

    def _common(self, answer: Fields) -> list[Fields]:
        if not self.prompt_ids and (ids := id_text(answer.get("prompt_token_ids"))):
            self.prompt_ids, self.prompt_size = b"[%b]" % ids, ids.count(b",") + 1
        self._take_usage(answer)
        if is_present(answer, "error"):
            self.error = error_text(value(answer, "error"))
        if not self.head:
            names = ("id", "object", "created", "model")
            self.head = {name: answer[name] for name in names if name in answer}
        try:
            items = objects(answer.get("choices"))
        except NotJson as error:
            raise MalformedAnswer(f"the replica's choices: {error}") from None
        if not items and answer.get("object") == _BARE_ERROR:
            self.error = error_text(value(answer, "message"))
        return items

    def _choice(self, item: Fields) -> ChoiceCapture:
        try:
            index = _index.decode(item["index"]) if "index" in item else 0
        except msgspec.MsgspecError:
            index = -1
        if index < 0:
            raise MalformedAnswer("a choice of the replica's answer has no valid index")
        choice = self.choices.get(index)
        if choice is None:
            choice = self.choices[index] = ChoiceCapture(index)
        return choice

    @property
    def sampled(self) -> bool:
        """Whether any token has arrived."""
        return any(choice.ids or choice.logprobs for choice in self.choices.values())

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt was: by its ids, else by the replica's count."""
        return self.prompt_size or self._used("prompt_tokens")

    @property
    def tokens(self) -> int:
        """Prompt and sampled tokens of the call."""
        sampled = sum(choice.sampled for choice in self.choices.values())
        return self.prompt_tokens + (sampled or self._used("completion_tokens"))

    def _used(self, name: str) -> int:
        count = (self.usage or {}).get(name)
        return count if type(count) is int else 0

    def finished(self, expected: int) -> bool:
        """Whether there are ``expected`` alternatives, and all that there are have ended."""
        choices = self.choices.values()
        return len(choices) >= expected and all(choice.finish_reason is not None for choice in choices)

    def prompt_of(self, choice: ChoiceCapture) -> bytes:
        """The ids an alternative was sampled after: text completions may have several prompts."""
        return choice.prompt_ids or self.prompt_ids

    def prompt_size_of(self, choice: ChoiceCapture) -> int:
        """How many these are; what the replica counted when there are none."""
        return choice.prompt_ids.count(b",") + 1 if choice.prompt_ids else self.prompt_tokens

    def response(self, choice: ChoiceCapture) -> dict[str, Any] | None:
        """The answer as the caller saw it, narrowed to one alternative; a stream is put together again."""
        if self.whole_response is not None:
            if len(self.choices) <= 1 or choice.fields is None:
                return dict(self.whole_response)
            return {**self.whole_response, "choices": [choice.fields]}
        if not self.head and not self.choices:
            return None
        kind = self.head.get("object")
        whole = {"object": (_text(kind) or "").removesuffix(".chunk")} if kind else {}
        usage = {"usage": self.usage} if self.usage else {}
        return {**self.head, **whole, "choices": [_assembled(choice)], **usage}


def _assembled(choice: ChoiceCapture) -> JsonObject:
    end = {"finish_reason": choice.finish_reason}
    if choice.text:
        return {"index": choice.index, "text": "".join(choice.text), **end}
    message = {"role": "assistant", "content": None, **choice.message}
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [{name: call[name] for name in call if name != "index"} for call in calls]
    return {"index": choice.index, "message": message, **end}


def merge_delta(message: JsonObject, delta: Fields) -> None:
    """Add one streamed piece to its message: texts are joined, of other values the last stays.

    Total: servers differ in what they stream, and none of it is a reason to keep the answer from its caller.
    """
    for name, raw in delta.items():
        if (piece := _readable(raw)) is None:
            continue
        if name == "tool_calls":
            _merge_tool_calls(message, piece)
        elif name == "function_call":
            _merge_function(message.setdefault(name, {}), piece)
        elif isinstance(piece, str) and isinstance(known := message.get(name), str) and name != "role":
            message[name] = known + piece
        else:
            message[name] = piece


def _readable(raw: Raw) -> Any:
    try:
        return decoded(raw)
    except ValueError:
        return None


def _merge_tool_calls(message: JsonObject, pieces: Any) -> None:
    for piece in pieces if isinstance(pieces, list) else ():
        if isinstance(piece, dict):
            call = _call_of(message.setdefault("tool_calls", []), piece)
            call.update({name: piece[name] for name in ("id", "type") if isinstance(piece.get(name), str)})
            _merge_function(call["function"], piece.get("function"))


def _call_of(calls: list[JsonObject], piece: JsonObject) -> JsonObject:
    index = call_index(piece, {call["index"]: call["id"] for call in calls})
    for call in calls:
        if call["index"] == index:
            return call
    empty = {"name": "", "arguments": ""}
    calls.append({"index": index, "id": None, "type": "function", "function": empty})
    return calls[-1]


def _merge_function(function: JsonObject, piece: Any) -> None:
    for name in ("name", "arguments"):
        if isinstance(piece, dict) and isinstance(text := piece.get(name), str):
            function[name] = function.get(name, "") + text


def strip_choice(item: Fields, wants: Wants) -> Fields:
    """A choice without what the caller did not ask for; the same object when nothing has to go."""
    hide_ids = not wants.token_ids and ("token_ids" in item or "prompt_token_ids" in item)
    hide_logprobs = not wants.logprobs and is_present(item, "logprobs")
    if not hide_ids and not hide_logprobs:
        return item
    kept = {name: raw for name, raw in item.items() if not hide_ids or name not in _IDS}
    if hide_logprobs:
        kept["logprobs"] = NULL
    return kept


_IDS = ("token_ids", "prompt_token_ids")


def strip_answer(answer: Fields, items: list[Fields], visible: list[Fields], wants: Wants) -> Fields:
    """An answer with its choices stripped; the same object when nothing has to go."""
    same = all(map(_is, items, visible))
    if same and (wants.token_ids or "prompt_token_ids" not in answer):
        return answer
    kept = {name: raw for name, raw in answer.items() if wants.token_ids or name != "prompt_token_ids"}
    if not same:
        kept["choices"] = Raw(encode(visible))
    return kept


def _is(one: Fields, other: Fields) -> bool:
    return one is other


def error_text(error: Any) -> str:
    """What an OpenAI error object, or anything else in its place, says."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message if message is not None else error)[:2000]


def id_text(raw: Raw | None) -> bytes:
    """The inside of a JSON array of token ids, empty when there is none. Raises ``MalformedAnswer``.

    The text is known to be JSON, so digits, commas and one pair of brackets can only be a flat list.
    """
    if raw is None:
        return b""
    text = bytes(raw)
    if text == b"null":
        return b""
    if text[:1] != b"[" or text.count(b"[") != 1 or text.translate(None, b"0123456789, \n\r\t[]"):
        raise MalformedAnswer("the replica's token ids are not all integers")
    return text[1:-1].strip()


def _text(raw: Raw) -> str | None:
    try:
        text: str | None = _string.decode(raw)
    except msgspec.MsgspecError:
        return None
    return text
