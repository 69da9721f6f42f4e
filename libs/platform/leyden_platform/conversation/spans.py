"""Tool spans: signals in which whoever runs the tools says how a call ended, so that nobody has to guess.

A signal ``tool.<name>`` about a completion tells of its next call of that tool, ``tool.<name>:<call id>`` of
that one call. A value above 0 means that it worked; the text, if any, is what the tool said. They count for
more than what the conversation shows, and stand for calls that it does not show.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from leyden_platform.conversation.answers import Made
from leyden_platform.conversation.values import Outcome, Result
from leyden_schemas import RewardTerm

PREFIX = "signal.tool."
STATE = "signal.state"


class Spans:
    """The spans of one step; each is used up by the call that it tells of."""

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        self.state: str | None = None
        self._left: dict[str, deque[RewardTerm]] = defaultdict(deque)
        for term in terms:
            if term.name.startswith(PREFIX):
                self._left[term.name.removeprefix(PREFIX)].append(term)
            elif term.name == STATE:
                self.state = self.state or term.feedback

    def result(self, made: Made, seen: Result | None) -> Result | None:
        """How the call ended: by its span, else as the conversation shows it."""
        for key in (f"{made.name}:{made.id}", made.name):
            if self._left.get(key):
                span = self._left[key].popleft()
                text = span.feedback or (seen.text if seen else "")
                return Result(text, failed=span.value <= 0)
        return seen

    def others(self) -> Iterator[Outcome]:
        """Those of calls that the response does not show."""
        for key, spans in self._left.items():
            yield from (Outcome(key.partition(":")[0], span.value > 0) for span in spans)
