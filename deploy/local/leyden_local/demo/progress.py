"""The demo as people see it: a live table on a terminal, a line now and then elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from leyden_local.demo.log import RunLog
from leyden_local.demo.options import RUN
from leyden_local.demo.tally import Tally

REFRESH_S = 0.5
LINE_EVERY_S = 10.0


class Progress:
    """What is going on, refreshed from the tallies."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._steps = console, steps
        self._stage, self._began = "starting", time.monotonic()
        self._stage_began = self._began
        self._log: RunLog | None = None
        self._tokens: list[tuple[float, int]] = []
        self.timings: dict[str, float] = {}

    def stage(self, name: str) -> None:
        """A new stage begins; the time of the last one is kept."""
        now = time.monotonic()
        self.timings[self._stage] = round(now - self._stage_began, 2)
        self._stage, self._stage_began = name, now
        if not self._console.is_terminal:
            self._console.print(f"{now - self._began:6.1f} s  {name}")

    def watch(self, log: RunLog) -> None:
        """Take the numbers from here."""
        self._log = log

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Keep the display current while entered."""
        task = asyncio.create_task(self._live() if self._console.is_terminal else self._lines())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _live(self) -> None:
        with Live(self._render(), console=self._console, refresh_per_second=4, transient=True) as live:
            while True:
                live.update(self._render())
                await asyncio.sleep(REFRESH_S)

    async def _lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            if tally := self._tally():
                facts = "  ".join(f"{name} {value}" for name, value in self._facts(tally))
                self._console.print(f"{time.monotonic() - self._began:6.1f} s  {self._stage}: {facts}")

    def _tally(self) -> Tally | None:
        return self._log.tallies[-1] if self._log and self._log.tallies else None

    def _render(self) -> RenderableType:
        title = Text(f"{self._stage}  ({time.monotonic() - self._began:.0f} s)", style="bold")
        tally = self._tally()
        if tally is None:
            return title
        table = Table.grid(padding=(0, 2))
        for name, value in self._facts(tally):
            table.add_row(Text(name, style="dim"), value)
        training = tally.run == RUN
        total, done = (self._steps, tally.step) if training else (tally.asked, len(tally.finished))
        return Group(title, ProgressBar(total=max(total, 1), completed=done, width=60), table)

    def _facts(self, tally: Tally) -> list[tuple[str, str]]:
        reward, staleness = tally.recent_reward(), tally.staleness
        facts = [("rollouts", f"{len(tally.finished)} / {tally.asked}")]
        if reward is not None:
            facts.append(("mean reward", f"{reward:.2f}"))
        if tally.serving is not None:
            facts.append(("serving", f"{tally.policy}@{tally.serving}"))
        if staleness is not None:
            facts.append(("staleness", f"{staleness:.2f} versions"))
        if tally.steps:
            facts.append(("learner steps", f"{tally.step} / {self._steps}"))
        facts.append(("tokens/s", f"{self._tokens_per_second():.0f}"))
        return facts

    def _tokens_per_second(self, window_s: float = 20.0) -> float:
        now = time.monotonic()
        total = sum(tally.tokens for tally in self._log.tallies) if self._log else 0
        self._tokens = [(at, n) for at, n in self._tokens if at > now - window_s] + [(now, total)]
        (first_at, first), (last_at, last) = self._tokens[0], self._tokens[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0
