"""One of the processes that train together, as the service sees it."""

import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from leyden_learner.rank_messages import BEAT, Answer, Seat

_END_S = 5.0
_LOOPBACK = "lo" if sys.platform.startswith("linux") else "lo0"


class RankProcess:
    """A started rank. It ends with the process, and on Linux with the thread, that made this."""

    def __init__(self, seat: Seat) -> None:
        self.answer: Answer | None = None
        here, there = socket.socketpair()
        self.connection = Connection(here.detach())
        self._beat = _shared(seat)
        BEAT.pack_into(self._beat, 0, time.monotonic())
        environment = {"GLOO_SOCKET_IFNAME": _LOOPBACK, **os.environ, "LOCAL_RANK": str(seat.rank)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "leyden_learner.rank", str(there.fileno()), str(os.getpid())],
            pass_fds=[there.fileno()],
            env=environment,
        )
        there.close()
        self.name = f"rank {seat.rank} (process {self._process.pid})"
        self.tell(pickle.dumps(seat))

    @property
    def error(self) -> Exception | None:
        """What its work failed with."""
        return self.answer.error if self.answer else None

    def tell(self, message: bytes) -> None:
        """Send a command; that nobody is there to hear it is found when the answer is waited for."""
        self.answer = None
        with suppress(OSError):
            self.connection.send_bytes(message)

    def take_answer(self) -> None:
        """Read what has arrived; the end of the connection is the end of the process."""
        try:
            self.answer = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            self.end()

    def lost(self, silence_s: float) -> str | None:
        """How it was lost, or None while it lives."""
        status = self._process.poll()
        if status is not None:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
            return f"{self.name} {how}"
        silent_s = time.monotonic() - BEAT.unpack_from(self._beat, 0)[0]
        return f"{self.name} gave no sign of life for {silent_s:.0f} s" if silent_s > silence_s else None

    def end(self) -> None:
        """Kill it: there is nothing that it could lose."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)


def _shared(seat: Seat) -> mmap.mmap:
    """Memory that the rank writes its signs of life to."""
    path = seat.beat
    path.write_bytes(bytes(BEAT.size))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), BEAT.size)
