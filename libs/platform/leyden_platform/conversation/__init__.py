"""What the steps of a rollout asked, said and got back, whichever protocol the agent spoke.

Recorded requests and responses are what an agent sent and saw: chat completions, text completions, Responses
or Messages, streamed or not. ``turns`` reads them all into one shape. Reading never raises, whatever an agent
sent: what has not the expected shape is absent.
"""

from leyden_platform.conversation.content import canonical, shown, text_of
from leyden_platform.conversation.outcomes import says_error
from leyden_platform.conversation.reading import turns
from leyden_platform.conversation.values import Call, Outcome, Result, Turn

__all__ = ["Call", "Outcome", "Result", "Turn", "canonical", "says_error", "shown", "text_of", "turns"]
