"""A sink in a thread of its own behind a bounded queue: a slow or broken one never touches training."""

import queue
import threading
import time

import structlog

from leyden_learner import metrics
from leyden_learner.sinks.base import OpenSink, Point, Sink

log = structlog.get_logger(__name__)

CAPACITY = 1000
_LOOK_S = 0.2


class BackgroundSink:
    """Takes points without waiting; what does not fit or fails is counted and dropped."""

    def __init__(self, name: str, policy: str, open_sink: OpenSink, *, capacity: int = CAPACITY) -> None:
        self._name, self._policy, self._open = name, policy, open_sink
        self._points: queue.Queue[Point] = queue.Queue(capacity)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def offer(self, point: Point) -> None:
        """Hand a point over; one too many is dropped."""
        try:
            self._points.put_nowait(point)
        except queue.Full:
            self._count("dropped")

    def close(self) -> None:
        """Take no more; what is in hand is still written."""
        self._closing.set()

    def wait(self, deadline_s: float) -> None:
        """Wait for that until ``deadline_s`` of the monotonic clock; what is left then is dropped."""
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        if self._thread.is_alive():
            log.warning("sink_left_behind", sink=self._name, points=self._points.qsize())
            for _ in range(self._points.qsize()):
                self._count("dropped")

    def _work(self) -> None:
        sink: Sink | None = None
        while not (self._closing.is_set() and self._points.empty()):
            try:
                point = self._points.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            sink = self._write(sink, point)
        self._shut(sink)

    def _write(self, sink: Sink | None, point: Point) -> Sink | None:
        """The sink to go on with: none after a failure, so that the next point opens it anew."""
        try:
            sink = sink or self._open(point.step)
            sink.write(point)
        except Exception as error:  # the seam: a third party's client may raise anything
            self._count("failed")
            log.warning("sink_failed", sink=self._name, step=point.step, exc_info=error)
            self._shut(sink)
            return None
        self._count("written")
        return sink

    def _shut(self, sink: Sink | None) -> None:
        if sink is None:
            return
        try:
            sink.close()
        except Exception as error:  # the seam, as above
            log.warning("sink_not_closed", sink=self._name, exc_info=error)

    def _count(self, result: str) -> None:
        metrics.SINK_POINTS.labels(self._policy, self._name, result).inc()
