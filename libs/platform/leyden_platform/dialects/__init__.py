"""Other ways to ask for a completion, as pure functions to and from chat completions.

Replicas are always asked for a chat completion, so that token ids and log-probabilities are captured in one
way whatever the caller speaks. A dialect translates the caller's request into one, and the answer, whole or
as a stream, back. JSON in, JSON out: no clock, no network, no ids but those derived from what is passed in.
"""

from leyden_platform.dialects.errors import UnsupportedRequest

__all__ = ["UnsupportedRequest"]
