"""When a process that ended is started again: sooner at first, later each time, and in the end not at all."""

from dataclasses import dataclass

FIRST_S = 0.5
LONGEST_S = 10.0
STEADY_S = 60.0
MAX_CRASHES = 8


@dataclass(slots=True)
class Backoff:
    """Counts the consecutive crashes of one process; being up for ``STEADY_S`` ends a series."""

    crashes: int = 0

    def crashed(self, up_s: float) -> float | None:
        """Seconds to wait before the next start of a process that was up for ``up_s``; None to leave it down.

        0.5, 1, 2, 4, 8, 10, 10 and 10 s for the crashes of a series; the ninth is one too many.
        """
        self.crashes = 1 if up_s >= STEADY_S else self.crashes + 1
        if self.crashes > MAX_CRASHES:
            return None
        return min(LONGEST_S, FIRST_S * 2.0 ** (self.crashes - 1))
