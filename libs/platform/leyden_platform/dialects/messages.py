"""Anthropic's Messages: what callers of ``/v1/messages`` send and expect, to and from chat completions.

The request goes through ``to_chat``; the answer comes back through ``from_chat``, or chunk by chunk through
a ``MessagesStream``; errors through ``error_body`` or ``error_from_chat``. To count tokens, the request goes
through ``to_tokenize`` and the answer through ``token_count``.
"""

from leyden_platform.dialects.messages_answer import SIGNATURE, from_chat
from leyden_platform.dialects.messages_arguments import RAW_ARGUMENTS
from leyden_platform.dialects.messages_counting import to_tokenize, token_count
from leyden_platform.dialects.messages_errors import error_body, error_from_chat
from leyden_platform.dialects.messages_request import to_chat
from leyden_platform.dialects.messages_stream import MessagesStream

__all__ = [
    "RAW_ARGUMENTS",
    "SIGNATURE",
    "MessagesStream",
    "error_body",
    "error_from_chat",
    "from_chat",
    "to_chat",
    "to_tokenize",
    "token_count",
]
