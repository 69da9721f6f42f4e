"""Reading fields of a Messages request: the value, or a refusal that names its place."""

from collections.abc import Iterator
from typing import Any

from leyden_platform.dialects.errors import UnsupportedRequest
from leyden_schemas import JsonObject


def text(holder: JsonObject, key: str, where: str) -> str:
    """The string ``holder[key]``; ``where`` is the holder's own place. Raises ``UnsupportedRequest``."""
    value = holder.get(key)
    if not isinstance(value, str):
        raise UnsupportedRequest(f"{where}.{key} must be a string", f"{where}.{key}")
    return value


def optional_object(request: JsonObject, key: str) -> JsonObject:
    """The object ``request[key]``, empty if absent or null. Raises ``UnsupportedRequest``."""
    value = request.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnsupportedRequest(f"{key} must be an object", key)
    return value


def objects(value: Any, where: str) -> Iterator[tuple[JsonObject, str]]:
    """The objects of the list ``value``, each with its place. Raises ``UnsupportedRequest``."""
    if not isinstance(value, list):
        raise UnsupportedRequest(f"{where} must be a list", where)
    for index, item in enumerate(value):
        place = f"{where}[{index}]"
        if not isinstance(item, dict):
            raise UnsupportedRequest(f"{place} must be an object", place)
        yield item, place


def blocks(content: Any, where: str) -> Iterator[tuple[JsonObject, str]]:
    """Content blocks with their places; a string is one block of text. Raises ``UnsupportedRequest``."""
    if isinstance(content, str):
        yield {"type": "text", "text": content}, where
    elif isinstance(content, list):
        yield from objects(content, where)
    else:
        raise UnsupportedRequest(f"{where} must be a string or a list of content blocks", where)


def unsupported(block: JsonObject, where: str, allowed: str) -> UnsupportedRequest:
    """The refusal of a block whose type has no place where it stands."""
    kind = block.get("type")
    name = f"{kind!r} blocks" if isinstance(kind, str) else "blocks without a type"
    return UnsupportedRequest(f"{where}: {name} are not supported here; send {allowed}", f"{where}.type")
