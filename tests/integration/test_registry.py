"""The registry over HTTP on a real Postgres; announcements go to a fake that keeps their order."""

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from leyden_platform.artifacts import verify_artifact
from leyden_platform.database import Order, OutboxRelay, create_engine, migrate, schema_drift
from leyden_platform.messaging import MemoryPublisher
from leyden_platform.settings import DatabaseSettings
from leyden_registry import inspection
from leyden_registry.api import registry_app
from leyden_registry.inspection import ArtifactInspector
from leyden_registry.registry import Registry
from leyden_registry.tables import SCHEMA, metadata, outbox
from leyden_schemas import AliasMoved, ModelPublished, WeightsKind, decode

pytestmark = pytest.mark.postgres

MAX_BODY_BYTES = 20_000


def checkpoint(folder: Path, seed: int = 0) -> str:
    """A small complete checkpoint folder; its URI."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    header = json.dumps({"w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + seed.to_bytes(8, "little")
    )
    return folder.as_uri()


class Service:
    """A registry without its processes: HTTP in, announcements out."""

    def __init__(self, engine: AsyncEngine, root: Path) -> None:
        self.engine, self.root, self.publisher = engine, root, MemoryPublisher()
        self.relay = OutboxRelay(engine, outbox, self.publisher, "registry", order=Order.ID)
        inspector = ArtifactInspector(root, timeout_s=10, concurrency=2)
        self.registry = Registry(engine, inspector, self.relay.wake)
        app = registry_app(self.registry, max_body_bytes=MAX_BODY_BYTES)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://registry")

    async def publish(self, policy: str = "calculator", **fields: Any) -> httpx.Response:
        """Publish a fresh checkpoint unless ``fields`` say otherwise."""
        body = {"version_id": str(uuid4()), **fields}
        if "artifact" not in body:
            body["artifact"] = checkpoint(self.root / body["version_id"])
        return await self.http.post(f"/v1/policies/{policy}/versions", json=body)

    async def move(self, alias: str, version: int, **fields: Any) -> httpx.Response:
        """Move an alias of ``calculator``."""
        body = {"version": version, **fields}
        return await self.http.put(f"/v1/policies/calculator/aliases/{alias}", json=body)

    async def announced(self) -> list[ModelPublished | AliasMoved]:
        """Everything announced since the last call, in order."""
        while await self.relay.relay():
            pass
        raw, self.publisher.raw = self.publisher.raw, []
        return [decode(topic, value) for topic, _key, value, _headers in raw]

    async def announced_keys(self) -> list[str]:
        """The keys of ``announced``; aliases with the version they name."""
        return [
            f"{message.key()}={message.version}" if isinstance(message, AliasMoved) else message.key()
            for message in await self.announced()
        ]


@pytest.fixture
async def service(database: DatabaseSettings, tmp_path: Path) -> AsyncIterator[Service]:
    """A migrated, empty registry."""
    await migrate(database, "leyden_registry", SCHEMA)
    engine = create_engine(database)
    made = Service(engine, tmp_path / "models")
    yield made
    await made.http.aclose()
    await engine.dispose()


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    """Status, type and message of a refusal."""
    error = response.json()["error"]
    return response.status_code, error["type"], error["message"]


async def test_the_migrations_make_exactly_the_tables_the_code_uses(service: Service) -> None:
    assert await schema_drift(service.engine, metadata, SCHEMA) == []


async def test_a_published_version_is_numbered_placed_and_announced(service: Service) -> None:
    response = await service.publish(
        run="run-a", step=4, metrics={"reward": 0.25, "big": 1e300}, aliases=["latest", "serving"]
    )
    body = response.json()
    assert response.status_code == 201
    assert (body["policy"], body["version"], body["aliases"], body["held"]) == (
        "calculator", 0, ["latest", "serving"], {},
    )  # fmt: skip
    published, latest, serving = await service.announced()
    assert isinstance(published, ModelPublished)
    assert (published.key(), published.run, published.step, published.metrics) == (
        "calculator@0", "run-a", 4, {"reward": 0.25, "big": 1e300},
    )  # fmt: skip
    assert published.digest == body["digest"]
    assert published.artifact == body["artifact"]
    assert [(m.key(), m.version) for m in (latest, serving)] == [
        ("calculator#latest", 0), ("calculator#serving", 0),
    ]  # fmt: skip
    body.pop("held")
    assert (await service.http.get("/v1/policies/calculator/versions/0")).json() == body
    assert (await service.http.get("/v1/policies/calculator/versions")).json()["versions"] == [body]


async def test_repeating_a_publication_answers_the_same_and_announces_nothing(service: Service) -> None:
    body: dict[str, Any] = {
        "version_id": str(uuid4()),
        "artifact": checkpoint(service.root / "a"),
        "metrics": {"loss": 0.1},
        "aliases": ["serving"],
    }
    first = await service.publish(**body)
    await service.announced()
    second = await service.publish(**(body | {"metrics": {"loss": 0.2}}))
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    assert await service.announced() == []


async def test_a_repeat_with_other_content_conflicts(service: Service) -> None:
    version_id, folder = str(uuid4()), service.root / "a"
    body: dict[str, Any] = {"version_id": version_id, "artifact": checkpoint(folder), "step": 1}
    await service.publish(**body)
    status, kind, message = error_of(await service.publish(**(body | {"step": 2})))
    assert (status, kind) == (409, "conflict")
    assert "another step" in message
    assert error_of(await service.publish("other", **body))[0] == 409
    shutil.rmtree(folder)
    checkpoint(folder, seed=1)
    status, _kind, message = error_of(await service.publish(**body))
    assert status == 409
    assert "content of the artifact" in message
    assert [policy["policy"] for policy in (await service.http.get("/v1/policies")).json()["policies"]] == [
        "calculator"
    ]


async def test_concurrent_publications_count_without_gaps_and_are_announced_in_order(
    service: Service,
) -> None:
    responses = await asyncio.gather(
        *(service.publish(f"policy-{index % 2}", aliases=["latest"]) for index in range(16))
    )
    assert {response.status_code for response in responses} == {201}
    versions = sorted((response.json()["policy"], response.json()["version"]) for response in responses)
    assert versions == [(f"policy-{policy}", number) for policy in range(2) for number in range(8)]
    keys = await service.announced_keys()
    for policy in ("policy-0", "policy-1"):
        expected = [key for number in range(8) for key in (f"{policy}@{number}", f"{policy}#latest={number}")]
        assert [key for key in keys if key.startswith(policy)] == expected


async def test_concurrent_repeats_make_one_version(service: Service) -> None:
    body = {"version_id": str(uuid4()), "artifact": checkpoint(service.root / "a")}
    responses = await asyncio.gather(*(service.publish(**body) for _ in range(6)))
    assert sorted(response.status_code for response in responses) == [200] * 5 + [201]
    assert len({response.text for response in responses}) == 1


async def test_a_publisher_that_gives_up_waiting_meets_the_same_reading_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artifact that takes longer to read than its publisher waits is read once and registered once."""
    readings: list[Path] = []
    enough = threading.Event()

    def slowly(path: Path, kind: WeightsKind) -> str:
        readings.append(path)
        assert enough.wait(30)
        return verify_artifact(path, kind)

    monkeypatch.setattr(inspection, "verify_artifact", slowly)
    body = {"version_id": str(uuid4()), "artifact": checkpoint(service.root / "a")}
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(service.publish(**body), 0.1)
    last = asyncio.create_task(service.publish(**body))
    await asyncio.wait([last], timeout=0.1)
    enough.set()
    assert ((await last).status_code, len(readings)) == (201, 1)
    assert (await service.publish(**body)).status_code == 200


async def test_one_version_id_for_two_policies_at_once_is_one_version_and_a_conflict(
    service: Service,
) -> None:
    body = {"version_id": str(uuid4()), "artifact": checkpoint(service.root / "a")}
    responses = await asyncio.gather(*(service.publish(f"policy-{index}", **body) for index in range(4)))
    assert sorted(response.status_code for response in responses) == [201, 409, 409, 409]


async def test_a_late_older_checkpoint_does_not_move_an_alias(service: Service) -> None:
    await service.publish(run="run-a", step=10, aliases=["latest"])
    late = (await service.publish(run="run-a", step=9, aliases=["latest", "canary"])).json()
    assert (late["version"], late["aliases"]) == (1, ["canary"])
    assert "step 10" in late["held"]["latest"]
    policy = (await service.http.get("/v1/policies/calculator")).json()
    assert (policy["newest"], policy["aliases"]) == (1, {"latest": 0, "canary": 1})
    assert await service.announced_keys() == [
        "calculator@0", "calculator#latest=0", "calculator@1", "calculator#canary=1",
    ]  # fmt: skip


async def test_an_explicit_move_goes_either_way_and_is_audited(service: Service) -> None:
    for _ in range(3):
        await service.publish(run="run-a", aliases=["serving"])
    back = await service.move("serving", 0, reason="2 answers in Latin", actor="ada")
    assert (back.status_code, back.json()["previous"], back.json()["version"]) == (200, 2, 0)
    again = await service.move("serving", 0)
    assert again.json() == back.json()
    moves = (await service.http.get("/v1/policies/calculator/moves")).json()["moves"]
    assert [(m["previous"], m["version"], m["actor"], m["reason"]) for m in moves] == [
        (2, 0, "ada", "2 answers in Latin"),
        (1, 2, "run:run-a", "published"),
        (0, 1, "run:run-a", "published"),
        (None, 0, "run:run-a", "published"),
    ]
    last = (await service.announced())[-1]
    assert isinstance(last, AliasMoved)
    assert (last.previous, last.version, last.reason) == (2, 0, "2 answers in Latin")


async def test_an_alias_takes_a_share_of_traffic_as_a_canary(service: Service) -> None:
    for _ in range(2):
        await service.publish(aliases=["serving"])
    await service.announced()
    moved = await service.move("canary", 1, weight=0.25)
    assert (moved.status_code, moved.json()["weight"]) == (200, 0.25)
    assert (await service.move("canary", 1, weight=0.25)).json() == moved.json()
    policy = (await service.http.get("/v1/policies/calculator")).json()
    assert (policy["aliases"], policy["weights"]) == ({"canary": 1, "serving": 1}, {"canary": 0.25})
    await service.move("canary", 1, weight=0.5)
    await service.move("canary", 1)
    assert (await service.http.get("/v1/policies/calculator")).json()["weights"] == {}
    announced = await service.announced()
    assert [(m.key(), m.previous, m.weight) for m in announced if isinstance(m, AliasMoved)] == [
        ("calculator#canary", None, 0.25),
        ("calculator#canary", 1, 0.5),
        ("calculator#canary", 1, None),
    ]


async def test_publishing_moves_a_canary_with_its_share(service: Service) -> None:
    await service.publish(aliases=["canary"])
    await service.move("canary", 0, weight=0.1)
    await service.publish(aliases=["canary"])
    last = (await service.announced())[-1]
    assert isinstance(last, AliasMoved)
    assert (last.version, last.weight) == (1, 0.1)
    await service.http.post("/v1/announce")
    again = (await service.announced())[-1]
    assert again == last


@pytest.mark.parametrize(
    ("alias", "weight", "kind", "hint"),
    [
        ("canary", 0, "invalid_request", "weight: Input should be greater than 0"),
        ("canary", -0.1, "invalid_request", "greater than 0"),
        ("canary", 1.01, "invalid_request", "less than or equal to 1"),
        ("canary", "half", "invalid_request", "weight: Input should be a valid number"),
        ("canary", 0.5, "invalid_weight", "weight 0.5 is more than the 0.4 that is left beside beta 0.6"),
        ("serving", 0.5, "invalid_weight", "takes what the weighted aliases leave"),
    ],
)
async def test_shares_that_cannot_be_are_refused(
    service: Service, alias: str, weight: object, kind: str, hint: str
) -> None:
    await service.publish(aliases=["serving"])
    await service.move("beta", 0, weight=0.6)
    status, refused, message = error_of(await service.move(alias, 0, weight=weight))
    assert (status, refused) == (422, kind)
    assert hint in message
    assert (await service.move("canary", 0, weight=0.4)).status_code == 200


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
async def test_an_incomplete_artifact_names_the_file_and_leaves_no_trace(service: Service, file: str) -> None:
    artifact = checkpoint(service.root / "a")
    (service.root / "a" / file).unlink()
    status, kind, message = error_of(await service.publish(artifact=artifact))
    assert (status, kind) == (422, "artifact_refused")
    assert file in message
    assert (await service.http.get("/v1/policies")).json() == {"policies": []}
    assert await service.announced() == []


async def test_artifacts_elsewhere_are_refused(service: Service, tmp_path: Path) -> None:
    outside = checkpoint(tmp_path / "outside")
    service.root.mkdir()
    (service.root / "link").symlink_to(tmp_path / "outside")
    for uri in (outside, (service.root / "link").as_uri(), "s3://bucket/model", "/models"):
        assert error_of(await service.publish(artifact=uri))[:2] == (422, "artifact_refused")


async def test_lineage_must_exist(service: Service) -> None:
    assert error_of(await service.publish(parent=0))[:2] == (422, "invalid_reference")
    await service.publish()
    assert (await service.publish(parent=0)).json()["parent"] == 0


async def test_a_policy_belongs_to_one_tenant(service: Service) -> None:
    await service.publish(tenant="acme")
    assert error_of(await service.publish(tenant="initech"))[:2] == (409, "conflict")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/policies/absent"),
        ("GET", "/v1/policies/absent/versions"),
        ("GET", "/v1/policies/absent/moves"),
        ("GET", "/v1/policies/calculator/versions/7"),
        ("GET", "/v1/policies/calculator/versions/latest"),
        ("GET", "/v1/policies/calculator/versions/-1"),
        ("GET", "/v1/policies/calculator/versions/99999999999999999999"),
        ("GET", "/v2/policies"),
        ("PUT", "/v1/policies/absent/aliases/serving"),
        ("PUT", "/v1/policies/calculator/aliases/serving"),
    ],
)
async def test_what_does_not_exist_is_404(service: Service, method: str, path: str) -> None:
    await service.publish()
    body = {"version": 5} if method == "PUT" else None
    status, kind, message = error_of(await service.http.request(method, path, json=body))
    assert (status, kind) == (404, "not_found")
    assert message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", (400, "invalid_json")),
        (b"{", (400, "invalid_json")),
        (b"\xff\xfe", (400, "invalid_json")),
        (b"[]", (422, "invalid_request")),
        (b"{}", (422, "invalid_request")),
        (b'{"version_id": 1, "artifact": "x"}', (422, "invalid_request")),
        (b" " * (MAX_BODY_BYTES + 1), (413, "too_large")),
    ],
)
async def test_bad_bodies_are_named(service: Service, content: bytes, expected: tuple[int, str]) -> None:
    response = await service.http.post("/v1/policies/calculator/versions", content=content)
    assert error_of(response)[:2] == expected


async def test_bad_names_methods_and_pages_are_named(service: Service) -> None:
    assert error_of(await service.publish("a@b"))[:2] == (422, "invalid_request")
    assert error_of(await service.http.delete("/v1/policies"))[:2] == (405, "method_not_allowed")
    await service.publish()
    for query in ("limit=0", "limit=many", "before=-1"):
        response = await service.http.get(f"/v1/policies/calculator/versions?{query}")
        assert error_of(response)[:2] == (422, "invalid_request")


async def test_versions_are_listed_newest_first_in_pages(service: Service) -> None:
    for _ in range(5):
        await service.publish()
    numbers, before = [], None
    while True:
        query = "?limit=2" + ("" if before is None else f"&before={before}")
        page = (await service.http.get(f"/v1/policies/calculator/versions{query}")).json()
        numbers += [version["version"] for version in page["versions"]]
        if (before := page["before"]) is None:
            break
    assert numbers == [4, 3, 2, 1, 0]


async def test_announcing_again_repeats_the_same_events_and_only_the_present_aliases(
    service: Service,
) -> None:
    await service.publish(aliases=["serving"])
    await service.publish(aliases=["serving"])
    first = {message.event_id: message for message in await service.announced()}
    response = await service.http.post("/v1/announce")
    assert (response.status_code, response.json()) == (202, {"announced": 3})
    again = await service.announced()
    assert [message.key() for message in again] == ["calculator@0", "calculator@1", "calculator#serving"]
    assert all(first[message.event_id] == message for message in again)
    assert again[-1].version == 1


async def test_announcing_again_adds_nothing_to_what_still_waits(service: Service) -> None:
    await service.publish(aliases=["serving"])
    assert (await service.http.post("/v1/announce")).json() == {"announced": 0}
    assert await service.announced_keys() == ["calculator@0", "calculator#serving=0"]


async def test_announcements_never_hide_a_move_made_at_the_same_time(service: Service) -> None:
    for _ in range(2):
        await service.publish(aliases=["serving"])
    await service.announced()
    for target in (0, 1, 0, 1):
        await asyncio.gather(
            *(service.registry.announce() for _ in range(3)), service.move("serving", target)
        )
        moves = [key for key in await service.announced_keys() if "#" in key]
        assert moves[-1] == f"calculator#serving={target}"


async def test_without_its_database_the_registry_says_try_again(tmp_path: Path) -> None:
    url = SecretStr("postgresql+asyncpg://leyden:leyden@127.0.0.1:1/leyden")
    service = Service(create_engine(DatabaseSettings(url=url, connect_timeout_s=2)), tmp_path / "models")
    response = await service.publish()
    assert error_of(response)[:2] == (503, "unavailable")
    assert response.headers["retry-after"] == "1"
    await service.http.aclose()
