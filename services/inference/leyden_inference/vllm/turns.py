"""One change of weights at a time: among the servers of this process, and among the replicas of the service.

Replicas have no store in common, so they ask each other (``GET /leyden/turn``). Each says what it intends
before it looks at the others; of two that do, the one that comes first in the list goes and the other
withdraws. So there are never two at it, unless one cannot be reached or the longest wait is over.
"""

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import structlog

from leyden_inference.vllm import metrics

log = structlog.get_logger(__name__)

TURN_PATH = "/leyden/turn"
_ASK_TIMEOUT_S = 10.0
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class PeerState:
    """What a replica says of itself."""

    serving: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    intends: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The answer to ``GET /leyden/turn``."""
        return {
            "serving": sorted(self.serving),
            "refused": sorted(self.refused),
            "intends": self.intends,
        }

    @classmethod
    def of(cls, answer: Any) -> "PeerState":
        """From that answer. Raises ``ValueError``."""
        try:
            return cls(frozenset(answer["serving"]), frozenset(answer["refused"]), answer["intends"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the state of a replica: {error!r}") from None


Decision = Literal["go", "wait", "withdraw"]


def decide(
    target: str, before: Sequence[PeerState | None], after: Sequence[PeerState | None], *, spare: bool
) -> Decision:
    """Whether a replica may change to ``target``; the others' states, None where one cannot be reached.

    ``before`` are those earlier in the list; they go first. Somebody must serve meanwhile: one of the others,
    or, with ``spare``, another server of this replica.
    """
    earlier = [state for state in before if state is not None]
    others = earlier + [state for state in after if state is not None]
    if any(state.intends for state in earlier):
        return "withdraw"
    if not all(target in state.serving | state.refused for state in earlier):
        return "withdraw"
    if any(state.intends for state in others):
        return "wait"
    able = spare or any(state.serving for state in others)
    return "go" if able else "wait"


def own_place(peers: Sequence[str], given: int | None, host: str | None = None) -> int | None:
    """Which of the peers this process is: as given, else the one whose host name it has."""
    if given is not None:
        return given if given < len(peers) else None
    name = host or socket.gethostname()
    names = [(urlsplit(peer).hostname or "").split(".")[0] for peer in peers]
    return names.index(name) if name in names else None


class TurnObsolete(Exception):
    """What the turn was for is no longer wanted: a newer version came while waiting."""


class Turns:
    """The turns of one process."""

    def __init__(
        self, session: aiohttp.ClientSession, peers: Sequence[str], place: int | None, *, wait_s: float
    ) -> None:
        self._session, self._wait_s = session, wait_s
        self._lock = asyncio.Lock()
        self.intends: str | None = None
        self.know(peers, place)

    def know(self, peers: Sequence[str], place: int | None) -> None:
        """The replicas, and which of them this is; None knows of no other."""
        position = place or 0
        self._before = [peer.rstrip("/") for peer in peers[:position]]
        self._after = [peer.rstrip("/") for peer in peers[position + 1 :]]
        self._alone = place is None or len(peers) < 2

    @contextlib.asynccontextmanager
    async def turn(
        self, target: str, *, spare: Callable[[], bool], wanted: Callable[[], bool]
    ) -> AsyncIterator[None]:
        """Inside the block nobody else changes weights, as far as can be known.

        ``spare`` says whether another server of this process serves, ``wanted`` whether it is still to
        be done. Raises ``TurnObsolete`` when it is not.
        """
        async with self._lock:
            began = time.monotonic()
            try:
                await self._until_ours(target, began + self._wait_s, spare, wanted)
                metrics.TURN_SECONDS.observe(time.monotonic() - began)
                yield
            finally:
                self.intends = None

    async def _until_ours(
        self, target: str, deadline: float, spare: Callable[[], bool], wanted: Callable[[], bool]
    ) -> None:
        while not self._alone:
            if not wanted():
                raise TurnObsolete
            self.intends = target
            before = await asyncio.gather(*map(self._ask, self._before))
            after = await asyncio.gather(*map(self._ask, self._after))
            decision = decide(target, before, after, spare=spare())
            if decision == "go":
                return
            if time.monotonic() > deadline:
                metrics.TURN_TIMEOUTS.inc()
                log.warning("turn_not_awaited", target=target, decision=decision, waited_s=self._wait_s)
                return
            if decision == "withdraw":
                self.intends = None
            await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))
        self.intends = target

    async def _ask(self, peer: str) -> PeerState | None:
        try:
            timeout = aiohttp.ClientTimeout(total=_ASK_TIMEOUT_S)
            async with self._session.get(peer + TURN_PATH, timeout=timeout) as response:
                return PeerState.of(json.loads(await response.read()))
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
