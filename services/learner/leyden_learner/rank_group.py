"""The processes that train together: started, told what to do, watched and ended. Free of torch.

The service itself trains nothing then: it holds the log, the database and the registry, and its ranks do, all
at the same time, what it would have done alone. One of them lost is all of them lost: nothing is saved from
such a step, the service ends, and the next start goes on from the last checkpoint.
"""

import asyncio
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

from leyden_learner.outcome import Outcome
from leyden_learner.rank_messages import Loaded, Seat
from leyden_learner.rank_process import RankProcess
from leyden_learner.settings import LearnerSettings
from leyden_schemas import TrainingSample

_LOOK_S = 0.5
_GRACE_S = 5.0
"""How long the others have to answer, or to be found dead, once one has failed."""


class RankLost(RuntimeError):
    """One of the processes that train together is dead, hangs or failed alone; all have been ended."""


class OtherLauncher(RuntimeError):
    """The service was started as one of several by a launcher, which it cannot be."""


def refuse_launchers(environment: Mapping[str, str]) -> None:
    """Raises ``OtherLauncher`` inside torchrun and the like, and where several machines are meant."""
    size = environment.get("WORLD_SIZE", "1")
    if size != "1":
        raise OtherLauncher(
            f"WORLD_SIZE={size}: the learner was started by torchrun or for several machines. Start one "
            "process and set LEYDEN_LEARNER_DATA_PARALLEL to the number of its machine's GPUs that it may "
            "use: it starts a process for each itself"
        )


class RankGroup:
    """The ranks of one learner, as a factory of trainers. Commands come from one thread, checks from any."""

    def __init__(self, settings: LearnerSettings) -> None:
        self._settings = settings
        self._ranks: list[RankProcess] = []
        self._folder: Path | None = None
        self._lost: str | None = None
        self._ending = threading.Lock()

    def begin(self, weights: Path, reference: Path) -> "RankedTrainer":
        """A fresh optimizer over these weights, on every rank."""
        return self._load("begin", weights, reference)

    def resume(self, checkpoint: Path, reference: Path) -> "RankedTrainer":
        """The trainer that saved this checkpoint, whatever the number of ranks it had."""
        return self._load("resume", checkpoint, reference)

    def start(self) -> None:
        """Start the processes, if that was not done."""
        if self._ranks:
            return
        size = self._settings.data_parallel
        self._folder = Path(tempfile.mkdtemp(prefix="leyden-ranks-"))
        seats = [Seat(rank, size, self._folder, self._settings) for rank in range(size)]
        with self._ending:
            self._ranks = [RankProcess(seat) for seat in seats]

    def call(self, name: str, *arguments: Any) -> Any:
        """Have every rank do this; the leading one's answer.

        Raises what failed on all ranks, or on the leading one alone, and ``RankLost``.
        """
        message = pickle.dumps((name, arguments))
        for rank in self._ranks:
            rank.tell(message)
        waiting, until_s = list(self._ranks), float("inf")
        while waiting and time.monotonic() < until_s:
            ready = wait([rank.connection for rank in waiting], _LOOK_S)
            for rank in waiting:
                if rank.connection in ready:
                    rank.take_answer()
            self.check()
            waiting = [rank for rank in waiting if rank.answer is None]
            if any(rank.error for rank in self._ranks):
                until_s = min(until_s, time.monotonic() + _GRACE_S)
        return self._agreed(waiting)

    def check(self) -> None:
        """Raises ``RankLost`` when a rank is dead or has given no sign of life for too long."""
        with self._ending:
            if self._lost:
                raise RankLost(self._lost)
            if reasons := [why for rank in self._ranks if (why := rank.lost(self._settings.rank_timeout_s))]:
                self._lose("; ".join(reasons))

    def close(self) -> None:
        """End all ranks."""
        with self._ending:
            self._lost = self._lost or "the ranks were ended"
            self._end()

    def _load(self, how: str, folder: Path, reference: Path) -> "RankedTrainer":
        self.start()
        return RankedTrainer(self, self.call("load", how, self._settings, folder, reference))

    def _agreed(self, silent: Sequence[RankProcess]) -> Any:
        leader = self._ranks[0]
        failed = [rank for rank in self._ranks if rank.error]
        if not failed:
            return leader.answer.value if leader.answer else None
        alike = len({type(rank.error) for rank in failed}) == 1 and len(failed) in (1, len(self._ranks))
        if not silent and alike and leader.error:
            raise leader.error
        reasons = [f"{rank.name} failed: {type(rank.error).__name__}: {rank.error}" for rank in failed]
        with self._ending:
            return self._lose("; ".join([*reasons, *(f"{rank.name} did not answer" for rank in silent)]))

    def _lose(self, why: str) -> NoReturn:
        self._lost = f"{why}. Start the learner again: it goes on from its last checkpoint"
        self._end()
        raise RankLost(self._lost)

    def _end(self) -> None:
        for rank in self._ranks:
            rank.end()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class RankedTrainer:
    """The policy in training, on every rank of a group."""

    def __init__(self, group: RankGroup, loaded: Loaded) -> None:
        self._group, self._loaded = group, loaded
        self.step = loaded.step

    @property
    def vocabulary(self) -> int:
        """Token ids lie below this."""
        return self._loaded.vocabulary

    @property
    def max_positions(self) -> int:
        """Tokens of the longest row the model takes."""
        return self._loaded.max_positions

    def advance(self, samples: Sequence[TrainingSample], version: int) -> Outcome:
        """Train one step."""
        outcome: Outcome
        outcome, self.step = self._group.call("advance", list(samples), version)
        return outcome

    def save(self, folder: Path) -> None:
        """Write a checkpoint's files."""
        self._group.call("save", folder)


class RankWatch:
    """A component that fails when a rank is lost, also while none of them has anything to do."""

    def __init__(self, group: RankGroup) -> None:
        self.name, self._group = "ranks", group

    def not_ready(self) -> str | None:
        """Nothing that the learner does not say itself."""
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Look until ``stop``. Raises ``RankLost``."""
        while not stop.is_set():
            await asyncio.to_thread(self._group.check)
            try:
                await asyncio.wait_for(stop.wait(), _LOOK_S)
            except TimeoutError:
                continue
