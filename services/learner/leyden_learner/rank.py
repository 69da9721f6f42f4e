"""One of the processes that train together: ``python -m leyden_learner.rank``, started by the service alone.

It does what it is told, gives signs of life while it does, and ends when nobody is left to tell it anything.
"""

import mmap
import os
import pickle
import signal
import sys
import threading
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from leyden_learner.rank_messages import BEAT, Answer, Loaded, Seat
from leyden_learner.settings import LearnerSettings
from leyden_platform.telemetry import configure_logging
from leyden_platform.workers import die_with

_BEAT_S = 0.5


class NotEnoughDevices(RuntimeError):
    """There are fewer GPUs than ranks."""


class Rank:
    """Does on this rank what the group is told."""

    def __init__(self) -> None:
        self._trainer: Any = None

    def load(self, how: str, settings: LearnerSettings, folder: Path, reference: Path) -> Loaded:
        """Begin with the weights in a folder, or resume the trainer that saved it."""
        from leyden_learner.trainer import Trainer

        self._trainer = None
        self._trainer = trainer = getattr(Trainer, how)(settings, folder, reference)
        return Loaded(trainer.step, trainer.vocabulary, trainer.max_positions)

    def advance(self, *arguments: Any) -> Any:
        """What a step came to, and the number of steps so far."""
        return self._trainer.advance(*arguments), self._trainer.step

    def save(self, folder: Path) -> None:
        """Take part in writing a checkpoint."""
        self._trainer.save(folder)


def serve(connection: Connection, seat: Seat) -> None:
    """Answer commands until the service is gone. What fails is an answer too."""
    rank = Rank()
    joined = False
    while True:
        try:
            name, arguments = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            if not joined:
                _join(seat)
                joined = True
            answer = Answer(getattr(rank, name)(*arguments))
        except Exception as error:  # noqa: BLE001 - the service decides what it means
            answer = Answer(error=_portable(error))
        connection.send_bytes(pickle.dumps(answer))


def _join(seat: Seat) -> None:
    """Meet the other ranks."""
    import torch
    import torch.distributed as dist

    from leyden_learner.model import choose_device

    device = choose_device(seat.settings.device)
    if device.type == "cuda":
        _take_gpu(seat)
    elif not seat.settings.threads:
        torch.set_num_threads(max(1, torch.get_num_threads() // seat.size))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=(seat.folder / "meeting").as_uri(),
        rank=seat.rank,
        world_size=seat.size,
        timeout=timedelta(seconds=seat.settings.rank_timeout_s),
    )


def _take_gpu(seat: Seat) -> None:
    import torch

    if seat.size > (there := torch.cuda.device_count()):
        raise NotEnoughDevices(f"LEYDEN_LEARNER_DATA_PARALLEL={seat.size}, but there are {there} GPUs")
    torch.cuda.set_device(seat.rank)


def _portable(error: Exception) -> Exception:
    """The error, or its text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a foreign exception does when it is copied
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _give_signs_of_life(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), BEAT.size) as shared:
        while True:
            BEAT.pack_into(shared, 0, time.monotonic())
            time.sleep(_BEAT_S)


def main() -> None:
    """Be a rank: the service says which."""
    connection = Connection(int(sys.argv[1]))
    die_with(int(sys.argv[2]), signal.SIGKILL)
    # A Ctrl-C reaches every process of a terminal; the service decides what ends.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    seat: Seat = pickle.loads(connection.recv_bytes())
    configure_logging(f"learner rank {seat.rank}", seat.settings.log)
    threading.Thread(target=_give_signs_of_life, args=[seat.beat], daemon=True).start()
    serve(connection, seat)
    # No farewells: the other ranks may be gone already.
    os._exit(0)


if __name__ == "__main__":
    main()
