"""How long a conversation may be, in whichever field its protocol has it."""

from leyden_gateway.errors import TooManyMessages
from leyden_gateway.exchange.fields import Fields, items

FIELDS = ("messages", "input", "prompt")
"""Chat and Messages; Responses and Embeddings; Completions."""


def check_messages(request: Fields, limit: int) -> None:
    """Raises ``TooManyMessages`` for more than ``limit`` messages, input items or prompts.

    A prompt of token ids is one prompt, however long. Commas are counted before anything is taken apart.
    """
    for field in FIELDS:
        raw = request.get(field)
        if raw is None or bytes(raw).count(b",") < limit:
            continue
        found = items(raw) or []
        if len(found) > limit and not bytes(found[0]).isdigit():
            raise TooManyMessages(
                f"{field} has {len(found)} items; this gateway takes at most {limit} "
                "(LEYDEN_GATEWAY_MAX_MESSAGES)"
            )
