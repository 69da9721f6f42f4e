"""What a pass deletes, and what it leaves: decided by the registry, and by servers just before deleting."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from prometheus_client import REGISTRY

from leyden_learner.archive import FolderArchive
from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.registry import RegistryClient, RegistryRefused
from leyden_learner.repository import Checkpoint
from leyden_learner.retention import Retention
from leyden_learner.servers import ServersSilent, loaded_versions
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import RegistryStub
from leyden_platform.artifacts import TRAINER_STATE


class Rows:
    """Committed checkpoints, newest first."""

    def __init__(self, rows: list[Checkpoint]) -> None:
        self.rows = rows

    async def newest(self, count: int = 1) -> list[Checkpoint]:
        return self.rows[:count]

    async def among(self, artifacts: Collection[str]) -> list[Checkpoint]:
        return [row for row in self.rows if row.artifact in artifacts]


class World:
    """Five checkpoints, registered as versions 1 to 5 over the imported version 0."""

    def __init__(self, folder: Path, policy: str, first: Path, count: int = 5) -> None:
        self.policy, self.loaded = policy, set[str]()
        self.asked = 0
        self.store = CheckpointStore(folder / "checkpoints", policy, "default")
        self.store.acquire()
        self.registry = RegistryStub(policy, first)
        rows = []
        for step in range(1, count + 1):
            made = self.store.write(step, first, lambda place: (place / TRAINER_STATE).mkdir())
            row = Checkpoint(step, made.as_uri(), "", first.as_uri(), step - 1, UUID(int=step))
            rows.append(replace(row, version=step))
            self.registry.versions.append({"version": step})
        self.rows = Rows(rows[::-1])

    async def ask(self) -> set[str]:
        self.asked += 1
        return self.loaded

    async def run(self, keep_weights: int = 2, *, passes: int = 1) -> None:
        http = httpx.AsyncClient(transport=httpx.ASGITransport(self.registry.app), base_url="http://registry")
        retention = Retention(
            LearnerSettings(policy=self.policy, keep_weights=keep_weights, keep_trainer_states=1),
            repository=self.rows,  # type: ignore[arg-type]
            registry=RegistryClient(http),
            archive=FolderArchive(self.store),
            loaded=self.ask,
        )
        for _ in range(passes):
            await retention()
        await http.aclose()

    def states(self) -> list[bool]:
        """Which checkpoints, oldest first, can be gone on from."""
        return [(self.store.folder / name / TRAINER_STATE).exists() for name in self.store.names()]

    def left(self) -> list[int]:
        return [int(name.split("-")[1]) for name in self.store.names()]

    def counted(self, outcome: str) -> float:
        labels = {"policy": self.policy, "outcome": outcome}
        return REGISTRY.get_sample_value("leyden_learner_retention_total", labels) or 0.0


@pytest.fixture
def world(tmp_path: Path, model_folder: Path) -> World:
    return World(tmp_path, f"tiny-{uuid4().hex[:8]}", model_folder)


async def test_all_weights_stay_unless_asked_otherwise(world: World) -> None:
    await world.run(keep_weights=0)
    assert world.left() == [1, 2, 3, 4, 5]
    assert world.registry.retired == []
    assert world.states() == [False, False, False, False, True]


async def test_states_that_were_kept_for_long_go_when_fewer_are_wanted(
    tmp_path: Path, model_folder: Path
) -> None:
    """As after KEEP_TRAINER_STATES was lowered, or a store was away for many steps."""
    world = World(tmp_path, f"tiny-{uuid4().hex[:8]}", model_folder, count=40)
    await world.run(keep_weights=0, passes=3)
    assert world.states() == [False] * 39 + [True]


async def test_the_newest_stay(world: World) -> None:
    await world.run()
    assert world.left() == [4, 5]
    assert sorted(world.registry.retired) == [1, 2, 3]
    assert world.counted("deleted") == 3


async def test_what_an_alias_names_or_somebody_pinned_stays(world: World) -> None:
    world.registry.aliases["canary"] = 1
    world.registry.pins[2] = "paper"
    await world.run()
    assert world.left() == [1, 2, 4, 5]
    assert (world.counted("alias"), world.counted("pinned"), world.counted("deleted")) == (1, 1, 1)
    world.registry.aliases["canary"] = 5
    await world.run()
    assert world.left() == [2, 4, 5]


async def test_what_adapters_lie_over_stays_until_they_are_retired(world: World) -> None:
    """Version 1 is below adapter 3, which goes in this pass, and version 2 below adapter 5, which stays."""
    for adapter, base in ((3, 1), (5, 2)):
        world.registry.versions[adapter] |= {"kind": "lora", "parent": base}
    await world.run(keep_weights=1)
    assert world.left() == [2, 5]
    assert world.counted("base") == 1


async def test_what_a_server_has_loaded_stays_until_it_has_not(world: World) -> None:
    world.loaded = {f"{world.policy}@3", "other@1"}
    await world.run()
    assert world.left() == [3, 4, 5]
    assert world.registry.retired == [2, 1]
    world.loaded = set()
    await world.run()
    assert world.left() == [4, 5]


async def test_a_server_that_loads_it_between_decision_and_deletion_saves_it(world: World) -> None:
    async def ask() -> set[str]:
        world.asked += 1
        return set() if world.asked == 1 else {f"{world.policy}@2"}

    world.ask = ask  # type: ignore[method-assign]
    await world.run()
    assert world.left() == [2, 4, 5]
    assert world.counted("served") == 1


async def test_a_promotion_between_decision_and_deletion_wins_or_is_refused(world: World) -> None:
    """The registry's answer is the decision: what is promoted before it stays, what it retired cannot be."""

    async def ask() -> set[str]:
        world.registry.aliases["serving"] = 3
        return set()

    world.ask = ask  # type: ignore[method-assign]
    await world.run()
    assert world.left() == [3, 4, 5]
    assert 3 not in world.registry.retired


async def test_a_deletion_that_was_interrupted_is_made_up_for(world: World) -> None:
    world.registry.retired = [1]
    await world.run()
    assert world.left() == [4, 5]


@pytest.mark.parametrize("away", ["registry", "servers"])
async def test_what_is_away_postpones_and_nothing_is_deleted(world: World, away: str) -> None:
    async def silent() -> set[str]:
        raise ServersSilent("no answer")

    world.registry.away = away == "registry"
    if away == "servers":
        world.ask = silent  # type: ignore[method-assign]
    await world.run()
    assert world.left() == [1, 2, 3, 4, 5]
    assert world.counted("postponed") == 1


async def test_a_registry_that_refuses_to_retire_postpones_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training does not end because an old version may not go."""

    async def refuse(_client: RegistryClient, *_args: object, **_kwargs: object) -> str | None:
        raise RegistryRefused("POST …/retire: 405")

    monkeypatch.setattr(RegistryClient, "retire", refuse)
    await world.run()
    assert world.left() == [1, 2, 3, 4, 5]
    assert world.counted("postponed") == 1


async def test_what_no_step_names_is_removed(world: World) -> None:
    world.rows.rows = world.rows.rows[1:]
    await world.run(keep_weights=0)
    assert world.left() == [1, 2, 3, 4]
    assert world.counted("unfinished") == 1


async def test_servers_say_what_they_have_loaded_and_what_its_adapters_lie_over() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        models = [
            {"id": f"tiny@{request.url.port}", "object": "model"},
            {"id": "tiny@7", "parent": "tiny@3"},
            {"id": "tiny@8", "parent": None},
        ]
        return httpx.Response(200, json={"data": models})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        loaded = await loaded_versions(http, ["http://a:1", "http://b:2/"])
        assert loaded == {"tiny@1", "tiny@2", "tiny@3", "tiny@7", "tiny@8"}
        assert await loaded_versions(http, []) == set()


@pytest.mark.parametrize(
    "response", [httpx.Response(503), httpx.Response(200, json={}), httpx.ReadTimeout("")]
)
async def test_a_server_that_does_not_say_is_named(response: httpx.Response | Exception) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        if isinstance(response, Exception):
            raise response
        return response

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        with pytest.raises(ServersSilent, match="http://a:1 does not say"):
            await loaded_versions(http, ["http://a:1"])
