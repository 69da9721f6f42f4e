"""TensorBoard event files, written without torch: ``<dir>/<policy>/<run>``."""

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from leyden_learner.sinks.base import Point, RunInfo


class TensorBoardSink:
    """A new file with every opening; its first event voids what older files have from ``first_step`` on."""

    def __init__(self, folder: Path, info: RunInfo, first_step: int) -> None:
        self._writer = EventFileWriter(str(folder / info.policy / info.run))
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(step=first_step, session_log=start))

    def write(self, point: Point) -> None:
        """One scalar for each metric."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in point.metrics.items()]
        self._writer.add_event(Event(step=point.step, wall_time=point.at_s, summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
