"""The load generator, ``python -m gateway_bench.load``: a plan on standard input, a result on the output.

A closed loop: each connection sends its next request when the last answer has ended. Connections are plain
protocols without tasks or futures, because this must cost less than what it measures.
"""

import asyncio
import gc
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import httptools
import msgspec
import uvloop

from gateway_bench import watch
from gateway_bench.measure import RunResult, percentile

COMPLETION_ID = b"x-leyden-completion-id"
_DONE = b"data: [DONE]"
_LONGEST_END = len(_DONE) + 4
_TICK_S = 0.02
_RECONNECT_S = 0.05


@dataclass(frozen=True)
class Call:
    """Where requests go, and the token they carry."""

    path: str
    token: str | None = None


@dataclass(frozen=True)
class LoadPlan:
    """What to send, for how long, and which processes to watch meanwhile.

    The window opens after ``warm_s`` and ``warm_requests``, and closes after ``seconds`` and
    ``min_requests`` or, whatever happened, ``max_s``. With ``total`` that many requests
    are sent and the window is all of it.
    """

    host: str
    port: int
    calls: list[Call]
    body: str
    streamed: bool
    concurrency: int
    seconds: float
    warm_s: float = 0.5
    warm_requests: int = 0
    min_requests: int = 1
    max_s: float = 150.0
    drain_s: float = 300.0
    total: int | None = None
    ramp_s: float = 0.0
    requests_per_call: int = 10
    watched: dict[str, list[int]] = field(default_factory=dict)
    cores: dict[str, list[int]] = field(default_factory=dict)


def encode_request(plan: LoadPlan, call: Call) -> bytes:
    """The bytes of one request."""
    body = plan.body.encode()
    authorization = f"authorization: Bearer {call.token}\r\n" if call.token else ""
    head = (
        f"POST {call.path} HTTP/1.1\r\nhost: {plan.host}:{plan.port}\r\n{authorization}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Load:
    """What the connections share: the requests to send, and what came of them."""

    def __init__(self, plan: LoadPlan) -> None:
        self.plan = plan
        self._requests = [encode_request(plan, call) for call in plan.calls]
        self._given = 0
        self._left = plan.total
        self.stopping = False
        self.in_flight = self.peak_in_flight = self.completed = self.chunks = 0
        self.latencies: list[float] = []
        self.first_bytes: list[float] = []
        self.completion_ids: list[str] = []
        self.errors: Counter[str] = Counter()

    def next_requests(self) -> bytes:
        """What a connection sends ``requests_per_call`` times: one rollout's request if there are any."""
        self._given += 1
        return self._requests[self._given % len(self._requests)]

    def may_send(self) -> bool:
        """Whether another request is wanted; counts it."""
        if self.stopping or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        return True

    @property
    def finished(self) -> bool:
        """Whether a given ``total`` has been answered."""
        return self._left == 0 and self.in_flight == 0


class Connection(asyncio.Protocol):
    """One caller."""

    def __init__(self, load: Load, loop: asyncio.AbstractEventLoop) -> None:
        self._load, self._loop = load, loop
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._request, self._left = b"", 0
        self._waiting = self._retired = False
        self._sent = self._first = 0.0
        self._completion_id: str | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        """A lost answer is an error; go on with a new connection."""
        if self._waiting:
            self._end("disconnected")
        if not (self._retired or self._load.stopping):
            self._loop.call_later(_RECONNECT_S, self._reconnect)

    def _reconnect(self) -> None:
        self._reconnecting = self._loop.create_task(connect(self._load))

    def _send(self) -> None:
        if not self._load.may_send():
            self._retired = True
            self._transport.close()
            return
        if not self._left:
            self._request, self._left = self._load.next_requests(), self._load.plan.requests_per_call
        self._left -= 1
        self._waiting, self._first, self._completion_id, self._tail = True, 0.0, None, b""
        self._sent = perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._waiting:
                self._end("not_http")
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the completion's id."""
        if name == COMPLETION_ID or name.lower() == COMPLETION_ID:
            self._completion_id = value.decode()

    def on_body(self, body: bytes) -> None:
        """Note when the answer began, and count the events of a stream."""
        if not self._first:
            self._first = perf_counter()
        if self._load.plan.streamed:
            self._load.chunks += body.count(b"\n\n")
            self._tail = body if len(body) >= _LONGEST_END else self._tail + body

    def on_message_complete(self) -> None:
        """Account for the answer and send the next request."""
        status = self._parser.get_status_code()
        if status != 200:
            self._end(f"status_{status}")
        elif self._load.plan.streamed and _DONE not in self._tail:
            self._end("stream_without_end")
        else:
            self._end(None)
        if self._parser.should_keep_alive():
            self._send()
        else:
            self._transport.close()

    def _end(self, error: str | None) -> None:
        load = self._load
        self._waiting = False
        load.in_flight -= 1
        if error:
            load.errors[error] += 1
            return
        load.completed += 1
        load.latencies.append(perf_counter() - self._sent)
        load.first_bytes.append(self._first - self._sent)
        if self._completion_id:
            load.completion_ids.append(self._completion_id)


async def connect(load: Load) -> None:
    """Open one connection; it runs by itself. A refused one is counted and tried again a little later."""
    loop = asyncio.get_running_loop()
    while not load.stopping:
        try:
            await loop.create_connection(lambda: Connection(load, loop), load.plan.host, load.plan.port)
        except OSError:
            load.errors["connection_refused"] += 1
            await asyncio.sleep(0.1)
        else:
            return


@dataclass(frozen=True)
class Snapshot:
    """The state of the world at one edge of the window."""

    at: float
    completed: int
    chunks: int
    cpu_s: dict[str, float]
    cores: dict[str, tuple[int, int]]

    @classmethod
    def take(cls, load: Load) -> "Snapshot":
        """Now."""
        watched = {**load.plan.watched, "load": [os.getpid()]}
        cpu_s = {role: watch.cpu_seconds(pids) for role, pids in watched.items() if pids}
        cores = {role: watch.core_times(cores) for role, cores in load.plan.cores.items()}
        return cls(perf_counter(), load.completed, load.chunks, cpu_s, cores)


class Run:
    """One run of a plan."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan, self._load = plan, Load(plan)
        self._peak_memory = 0

    async def __call__(self) -> RunResult:
        """Warm up, measure, drain."""
        opening = asyncio.create_task(self._open())
        plan, load = self._plan, self._load
        if plan.total is None:
            await self._until(plan.warm_s, plan.warm_requests, plan.max_s)
        start = Snapshot.take(load)
        await self._until(plan.seconds, plan.min_requests, plan.max_s)
        end = Snapshot.take(load)
        load.stopping = True
        await opening
        await self._drain()
        return self._result(start, end)

    async def _open(self) -> None:
        pause = self._plan.ramp_s / self._plan.concurrency
        due = perf_counter()
        for _ in range(self._plan.concurrency):
            await connect(self._load)
            due += pause
            if (ahead := due - perf_counter()) > 0:
                await asyncio.sleep(ahead)

    async def _until(self, seconds: float, requests: int, max_s: float) -> None:
        """Until the time is over and enough was answered, all was answered, or ``max_s`` passed."""
        began, before = perf_counter(), self._load.completed
        while (elapsed := perf_counter() - began) < max_s and not self._load.finished:
            if self._plan.total is None and elapsed >= seconds and self._load.completed - before >= requests:
                return
            await asyncio.sleep(_TICK_S)
            self._watch_memory()

    def _watch_memory(self) -> None:
        pids = self._plan.watched.get("subject", [])
        self._peak_memory = max(self._peak_memory, watch.memory(pids))

    async def _drain(self) -> None:
        deadline = perf_counter() + self._plan.drain_s
        while self._load.in_flight and perf_counter() < deadline:  # noqa: ASYNC110 - polled, to stay lean
            await asyncio.sleep(_TICK_S)
        if self._load.in_flight:
            self._load.errors["no_answer"] += self._load.in_flight

    def _result(self, start: Snapshot, end: Snapshot) -> RunResult:
        load = self._load
        latencies = sorted(load.latencies[start.completed : end.completed])
        first_bytes = sorted(load.first_bytes[start.completed : end.completed])
        return RunResult(
            answered=load.completed,
            requests=end.completed - start.completed,
            chunks=end.chunks - start.chunks,
            seconds=end.at - start.at,
            latency_p50_s=percentile(latencies, 0.5),
            latency_p99_s=percentile(latencies, 0.99),
            first_byte_p50_s=percentile(first_bytes, 0.5),
            cpu_s={role: seconds - start.cpu_s[role] for role, seconds in end.cpu_s.items()},
            busy={role: _busy(start.cores[role], end.cores[role]) for role in end.cores},
            peak_memory=self._peak_memory,
            peak_in_flight=load.peak_in_flight,
            errors=dict(load.errors),
            completion_ids=load.completion_ids,
        )


def _busy(start: tuple[int, int], end: tuple[int, int]) -> float:
    return (end[0] - start[0]) / max(1, end[1] - start[1])


async def run(plan: LoadPlan) -> RunResult:
    """Run ``plan`` in this process."""
    gc.freeze()
    gc.disable()
    return await Run(plan)()


if __name__ == "__main__":
    result = uvloop.run(run(msgspec.json.decode(sys.stdin.buffer.read(), type=LoadPlan)))
    sys.stdout.buffer.write(msgspec.json.encode(result))
