"""Which tool call a streamed piece belongs to; servers differ in how they say it."""

from collections.abc import Mapping

from leyden_schemas import JsonObject


def call_index(piece: JsonObject, known: Mapping[int, str | None]) -> int:
    """The index of the piece's call; ``known`` are the ids of the calls so far by index, the latest last.

    A piece without an index goes on with the call of its id or, if it has neither an id nor a name, with the
    latest; any other begins a call.
    """
    index, call_id, function = piece.get("index"), piece.get("id"), piece.get("function")
    if type(index) is int:
        return index
    if call_id:
        same = [at for at, known_id in known.items() if known_id == call_id]
    else:
        named = isinstance(function, dict) and function.get("name")
        same = [] if named else list(known)
    return same[-1] if same else max(known, default=-1) + 1
