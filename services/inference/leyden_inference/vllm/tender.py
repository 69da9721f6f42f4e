"""Brings one server from what it holds to what it should hold, and back up when it went down."""

import asyncio
import contextlib
from typing import Protocol

import structlog

from leyden_inference.errors import InferenceError, LoadFailed
from leyden_inference.fetching import Fetcher
from leyden_inference.settings import InferenceSettings
from leyden_inference.vllm import metrics
from leyden_inference.vllm.client import ServerFailed
from leyden_inference.vllm.engine import Engine
from leyden_inference.vllm.placement import Wanted
from leyden_inference.vllm.turns import TurnObsolete, Turns
from leyden_inference.vllm.weights import Verified, verify
from leyden_schemas import ModelPublished, policy_at

log = structlog.get_logger(__name__)

_LOOK_S = 2.0
_SILENT_LOOKS = 3
"""Looks in a row without an answer after which a server counts as gone."""
_LONGEST_PAUSE_S = 30.0


class EngineHopeless(InferenceError):
    """A server was started in vain too often; the text has its last words."""


class Planner(Protocol):
    """What a tender asks and tells; ``leyden_inference.vllm.fleet.Fleet``."""

    def wanted(self, engine: Engine) -> Wanted | None:
        """What a server should hold."""
        ...

    def others_serve(self, engine: Engine) -> bool:
        """Whether another server takes requests."""
        ...

    def refuse(self, message: ModelPublished, error: LoadFailed) -> None:
        """A version could not be served."""
        ...

    def doubt(self, message: ModelPublished, error: ServerFailed) -> None:
        """No server could be started with a version; it may be the version's fault."""
        ...

    def accept(self, name: str) -> None:
        """A version is served."""
        ...

    def notify(self) -> None:
        """Something changed that requests may wait for."""
        ...

    async def changed(self, timeout_s: float) -> None:
        """Return when something changed, or after a while."""
        ...


class Tender:
    """The one who changes a server. Runs until cancelled."""

    def __init__(
        self, planner: Planner, engine: Engine, turns: Turns, settings: InferenceSettings, fetcher: Fetcher
    ) -> None:
        self._planner, self._engine, self._turns = planner, engine, turns
        self._settings, self._fetcher = settings, fetcher
        self._failures = 0
        self._silent = 0

    async def run(self) -> None:
        """Tend for ever. Raises ``EngineHopeless``."""
        while True:
            try:
                await self._tend()
            except ServerFailed as error:
                await self._give_pause(error)
            await self._watch()

    async def _tend(self) -> None:
        """One step towards what is wanted. Raises ``ServerFailed`` when the server is down after it."""
        wanted, engine = self._planner.wanted(self._engine), self._engine
        if wanted is None:
            return
        target = policy_at(wanted.base.policy, wanted.base.version)
        if engine.base is None:
            await self._bring_up(wanted.base)
        elif engine.base.name != target:
            await self._replace(wanted.base, engine.base)
        elif engine.state == "serving":
            await self._tend_adapters(wanted)

    async def _bring_up(self, message: ModelPublished) -> None:
        version = await self._verified(message)
        if version is None:
            return
        try:
            await self._engine.bring_up(version)
        except ServerFailed as error:
            self._planner.doubt(message, error)
            raise
        except LoadFailed as error:
            self._planner.refuse(message, error)
        else:
            self._settled(version)

    async def _replace(self, message: ModelPublished, held: Verified) -> None:
        """The next version in place of the one held, in our turn; the one held again if that fails."""
        version = await self._verified(message)
        if version is None:
            return
        try:
            async with self._turns.turn(version.name, spare=self._spare, wanted=lambda: self._wants(version)):
                await self._take_turn(message, version, held)
        except TurnObsolete:
            return
        self._planner.notify()

    async def _take_turn(self, message: ModelPublished, version: Verified, held: Verified) -> None:
        try:
            await self._change(version, held)
        except ServerFailed as error:
            self._planner.doubt(message, error)
            raise
        except LoadFailed as error:
            self._planner.refuse(message, error)
            with contextlib.suppress(LoadFailed):
                await self._engine.change(held)
        else:
            self._settled(version)

    def _wants(self, version: Verified) -> bool:
        wanted = self._planner.wanted(self._engine)
        return wanted is not None and policy_at(wanted.base.policy, wanted.base.version) == version.name

    def _spare(self) -> bool:
        return self._planner.others_serve(self._engine)

    async def _change(self, version: Verified, held: Verified) -> None:
        """By reloading where that can do it; by a new start where it cannot, or did not work."""
        if version.shape != held.shape:
            await self._engine.restart(version)
            return
        try:
            await self._engine.change(version)
        except ServerFailed as error:
            log.warning(
                "weights_not_reloaded", engine=self._engine.number, model=version.name, error=str(error)
            )
            await self._engine.restart(version)

    async def _tend_adapters(self, wanted: Wanted) -> None:
        engine, linger_s = self._engine, self._settings.linger_s
        names = {policy_at(message.policy, message.version): message for message in wanted.adapters}
        for name in [name for name in engine.adapters if name not in names]:
            crowded = len(engine.adapters) >= self._settings.vllm.max_loras
            if engine.idle_s(name) >= (0.01 if crowded else linger_s):
                await engine.drop_adapter(name)
        for name, message in names.items():
            if name not in engine.adapters and len(engine.adapters) < self._settings.vllm.max_loras:
                await self._add_adapter(message)

    async def _add_adapter(self, message: ModelPublished) -> None:
        version = await self._verified(message)
        if version is None:
            return
        try:
            await self._engine.add_adapter(version)
        except LoadFailed as error:
            self._planner.refuse(message, error)
        else:
            self._settled(version)

    async def _verified(self, message: ModelPublished) -> Verified | None:
        """The version once its files are known to be right; None, and refused, when they are not."""
        try:
            return await verify(await self._fetcher.local(message), self._settings.vllm.probe)
        except LoadFailed as error:
            self._planner.refuse(message, error)
            return None

    def _settled(self, version: Verified) -> None:
        self._failures = self._silent = 0
        self._planner.accept(version.name)
        self._planner.notify()

    async def _give_pause(self, error: ServerFailed) -> None:
        """Wait longer after every failure in a row. Raises ``EngineHopeless`` after too many."""
        self._engine.take_down()
        self._planner.notify()
        self._failures += 1
        log.error("vllm_failed", engine=self._engine.number, failures=self._failures, error=str(error))
        if self._failures >= self._settings.vllm.max_starts:
            raise EngineHopeless(
                f"server {self._engine.number} failed {self._failures} times in a row: {error}"
            )
        await asyncio.sleep(min(_LONGEST_PAUSE_S, 2.0 ** (self._failures - 1)))

    async def _watch(self) -> None:
        """Until something changes or it is time to look; a server that ended or fell silent is down then."""
        ended = asyncio.create_task(self._engine.server.ended())
        changed = asyncio.create_task(self._planner.changed(_LOOK_S))
        try:
            await asyncio.wait([ended, changed], return_when=asyncio.FIRST_COMPLETED)
            gone = ended.done()
        finally:
            ended.cancel()
            changed.cancel()
            await asyncio.wait([ended, changed])
        if self._engine.base is None:
            return
        self._silent = 0 if await self._engine.client.healthy() else self._silent + 1
        if gone or self._silent >= _SILENT_LOOKS:
            metrics.ENGINE_ENDED.labels(str(self._engine.number)).inc()
            log.error("vllm_gone", engine=self._engine.number, ended=gone)
            self._silent = 0
            self._engine.take_down()
            self._planner.notify()
