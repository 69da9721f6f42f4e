"""Records of calls whose key opened nothing: an operator finds on the log who tried, what, and why not.

Anybody can make such calls, so they are recorded a few per minute and only counted beyond that; each is a
session of its own, without what was sent, which nobody reads.
"""

from collections.abc import Callable
from time import monotonic, perf_counter

from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.control.buckets import Bucket
from leyden_gateway.errors import ApiError
from leyden_gateway.exchange.capture import Capture
from leyden_gateway.recording.record import Call, Ending, records
from leyden_gateway.recording.recorder import Recorder
from leyden_schemas import new_id


class Refusals:
    """At most ``per_minute`` records a minute, at once or not; none if that is 0."""

    def __init__(self, recorder: Recorder, per_minute: int, now: Callable[[], float] = monotonic) -> None:
        self._recorder, self._now = recorder, now
        self._room = Bucket.full(per_minute / 60, per_minute, now()) if per_minute else None

    def take(self) -> bool:
        """Whether a refusal may be recorded now; if so it counts."""
        if self._room is None or self._room.wait_s(1, now := self._now()):
            return False
        self._room.charge(1, now)
        return True

    async def record(self, call: Call, error: ApiError) -> None:
        """Put the refused call on the log. Raises what ``Recorder.record`` raises."""
        ending = Ending.failed(error)
        total_s = perf_counter() - call.started
        await self._recorder.record(call, records(call, ending, Capture(), total_s=total_s))


def nobody() -> Attribution:
    """Whose a call is that nobody may have made: a session of its own, of the default tenant."""
    return Attribution(new_id())
