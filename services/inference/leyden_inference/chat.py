"""Rendering a conversation through the model's own chat template, the way transformers does."""

import copy
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from leyden_inference.errors import RequestRefused, UnsupportedModel
from leyden_inference.text import Tokenizer

Message = dict[str, Any]


class ChatTemplate:
    """The chat template of a model folder, compiled once."""

    def __init__(self, source: str, variables: dict[str, str]) -> None:
        """Raises ``UnsupportedModel`` when the source is no template."""
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise UnsupportedModel(f"the chat template does not compile: {error}") from None
        self._variables = variables

    def render(
        self, messages: list[Message], tools: list[Message] | None, options: Mapping[str, Any] | None = None
    ) -> str:
        """The prompt of a conversation. Raises ``RequestRefused`` when the template refuses the messages."""
        context = {**self._variables, "documents": None, "add_generation_prompt": True, **(options or {})}
        try:
            return self._template.render({**context, "messages": messages, "tools": tools})
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise RequestRefused(f"the chat template refuses these messages: {error}") from None


def chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of a folder, from its own file or the tokenizer's configuration; None without one."""
    file = folder / "chat_template.jinja"
    source = file.read_text() if file.is_file() else tokenizer.config.get("chat_template")
    if isinstance(source, list):
        named = {item["name"]: item["template"] for item in source}
        source = named.get("default")
    return ChatTemplate(source, tokenizer.special_tokens()) if isinstance(source, str) else None


def normalise(messages: list[Message]) -> list[Message]:
    """Messages as templates expect them: plain text contents, tool-call arguments as objects.

    Text parts are joined by a newline. Arguments that are not JSON stay the text they are.
    Raises ``RequestRefused`` for parts that are not text.
    """
    return [_normalised(message) for message in messages]


def _normalised(message: Message) -> Message:
    result = dict(message)
    content = result.get("content")
    if isinstance(content, list):
        result["content"] = "\n".join(_text(part) for part in content)
    elif content is None and not result.get("tool_calls"):
        result["content"] = ""
    elif not isinstance(content, str | None):
        raise RequestRefused("content is a text or a list of parts", param="messages")
    if calls := result.get("tool_calls"):
        if not isinstance(calls, list):
            raise RequestRefused("tool_calls is a list", param="messages")
        result["tool_calls"] = [_with_object_arguments(call) for call in calls]
    return result


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise RequestRefused(f"content part {kind!r}: this model reads text only", param="messages")


def _with_object_arguments(call: Any) -> Any:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        raise RequestRefused("every tool call needs a function with name and arguments", param="messages")
    call = copy.copy(call)
    function = call["function"] = dict(call["function"])
    arguments = function.get("arguments")
    if not arguments:
        function["arguments"] = {}
    elif isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments)
        except (ValueError, RecursionError):
            return call
    return call


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant says for training; for a prompt it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body of the block alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # noqa: DTZ005
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise TemplateError(message)
