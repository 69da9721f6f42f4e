"""Driving servers of vLLM: weights change under load, in turns, and what goes wrong fails no request."""

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from vllm_rig import DEADLINE_S, POLICY, Rig, checkpoint, moved, published, running_fleet, settings

from leyden_inference.vllm.process import VllmProcess
from leyden_inference.vllm.tender import EngineHopeless
from leyden_schemas import WeightsKind

pytestmark = pytest.mark.timeout(240)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"leyden_inference_{name}", labels) or 0.0


async def test_weights_change_under_load_without_a_failed_or_mislabelled_answer(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, settings()) as rig:
        rig.publish(0)
        await rig.until_served(0)
        stop = asyncio.Event()
        clients = [
            asyncio.create_task(rig.keep_asking(stop, streamed=number % 2 == 0)) for number in range(8)
        ]
        for version in range(4):
            if version:
                rig.publish(version)
            await rig.until_served(version)
            await rig.until_answered(version)
        stop.set()
        await asyncio.gather(*clients)
        seen = await rig.configure(0)
    assert rig.failures == []
    assert set(rig.answers) == {(f"{POLICY}@{version}", f"v{version}") for version in range(4)}
    assert len(set(seen["salts"])) == 4, "prefixes are shared within a version only"
    assert seen["resets"] == 3


async def test_a_request_longer_than_the_drain_is_kept_over_the_change(tmp_path: Path) -> None:
    before = value("spanned_requests_total")
    async with running_fleet(tmp_path, settings(swap_drain_s=0)) as rig:
        rig.publish(0)
        await rig.until_served(0)
        asked = asyncio.create_task(rig.ask(tokens=200))
        await rig.until(lambda: rig.fleet.engines[0].open == 1)
        rig.publish(1)
        await rig.until_served(1)
        answer = (await asked).json()
    assert answer["model"] == f"{POLICY}@0", "named after the version that began it"
    assert set(answer["choices"][0]["message"]["content"].split()) == {"v0", "v1"}
    assert value("spanned_requests_total") == before + 1


@pytest.mark.parametrize(("mode", "outcome"), [("stale", "stale"), ("broken", "mismatch")])
async def test_weights_that_are_not_the_published_ones_are_not_served(
    tmp_path: Path, mode: str, outcome: str
) -> None:
    probes, failures = value("probes_total", outcome=outcome), value("load_failures_total", reason="probe")
    async with running_fleet(tmp_path, settings(swap_drain_s=0)) as rig:
        rig.publish(0)
        await rig.until_served(0)
        await rig.configure(0, mode=mode)
        long = asyncio.create_task(rig.ask(tokens=400))
        await rig.until(lambda: rig.fleet.engines[0].open == 1)
        rig.publish(1)
        await rig.until(lambda: value("load_failures_total", reason="probe") > failures)
        assert (await long).status_code == 503, "it may have been computed by the wrong weights"
        await rig.configure(0, mode="")
        await rig.until_served(1)
        assert (await rig.ask()).json()["model"] == f"{POLICY}@1"
    assert value("probes_total", outcome=outcome) > probes


async def test_the_version_before_answers_while_the_next_is_refused(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, settings(swap_drain_s=0)) as rig:
        rig.publish(0)
        await rig.until_served(0)
        folder = checkpoint(tmp_path, 1)
        rig.announce(published(folder, 1, digest="0" * 64), moved(1))
        failed = value("load_failures_total", reason="digest")
        await rig.until(lambda: value("load_failures_total", reason="digest") > failed - 1)
        assert (await rig.ask()).json()["model"] == f"{POLICY}@0"
        exact = await rig.ask(f"{POLICY}@1")
        assert (exact.status_code, exact.json()["error"]["code"]) == (404, "model_not_found")
        assert (await rig.ask(f"{POLICY}@7")).status_code == 404, "never published"


async def test_a_server_that_dies_in_the_middle_of_a_change_comes_back_with_the_new_version(
    tmp_path: Path,
) -> None:
    async with running_fleet(tmp_path, settings()) as rig:
        rig.publish(0)
        await rig.until_served(0)
        await rig.configure(0, mode="die")
        rig.publish(1)
        answer = await rig.ask()
        assert answer.status_code == 200
        await rig.until_served(1)
        assert (await rig.ask()).json()["choices"][0]["message"]["content"].split()[0] == "v1"


@pytest.mark.parametrize("mode", ["refuse", "hang"])
async def test_a_server_that_cannot_reload_is_started_anew(tmp_path: Path, mode: str) -> None:
    async with running_fleet(tmp_path, settings(swap_timeout_s=1.0)) as rig:
        rig.publish(0)
        await rig.until_served(0)
        await rig.configure(0, mode=mode)
        rig.publish(1)
        await rig.until_served(1)
        assert (await rig.ask()).json()["model"] == f"{POLICY}@1"


async def test_kill_nine_of_a_server_is_made_good_and_requests_wait(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, settings()) as rig:
        rig.publish(0)
        await rig.until_served(0)
        os.kill(pid(rig, 0), signal.SIGKILL)
        await rig.until(lambda: rig.fleet.names == [])
        assert (await rig.ask()).status_code == 200
    assert not alive(rig, 0), "nothing is left behind"


@pytest.mark.parametrize(
    ("start", "words"), [("die", "no room for the key-value cache"), ("hang", "START_TIMEOUT_S")]
)
async def test_a_server_that_never_starts_ends_the_service_with_its_last_words(
    tmp_path: Path, start: str, words: str
) -> None:
    chosen = settings(
        start_timeout_s=1.0 if start == "hang" else 30.0, max_starts=2, env={"FAKE_START": start}
    )
    async with running_fleet(tmp_path, chosen) as rig:
        rig.publish(0)
        assert rig.fleet.not_ready() == "no server of vLLM serves a version yet"
        with pytest.raises(EngineHopeless, match=words):
            await asyncio.wait_for(rig.running, DEADLINE_S)


async def test_another_architecture_needs_a_new_start(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, settings()) as rig:
        rig.publish(0)
        await rig.until_served(0)
        before = pid(rig, 0)
        rig.announce(published(checkpoint(tmp_path, 1, layers=2), 1), moved(1))
        await rig.until_served(1)
        assert pid(rig, 0) != before
        assert (await rig.ask()).json()["model"] == f"{POLICY}@1"


async def test_a_version_that_no_server_starts_with_gives_way_to_the_one_before(tmp_path: Path) -> None:
    failed = value("load_failures_total", reason="start")
    async with running_fleet(tmp_path, settings(env={"FAKE_DIE_WITH": "v1"}, max_starts=3)) as rig:
        rig.publish(0)
        await rig.until_served(0)
        rig.announce(published(checkpoint(tmp_path, 1, layers=2), 1), moved(1))
        await rig.until(lambda: value("load_failures_total", reason="start") > failed)
        assert (await rig.ask()).json()["model"] == f"{POLICY}@0"


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    chosen = settings(command=["/nowhere/vllm"], max_starts=1)
    async with running_fleet(tmp_path, chosen) as rig:
        rig.publish(0)
        with pytest.raises(EngineHopeless, match="LEYDEN_INFERENCE_VLLM__COMMAND"):
            await asyncio.wait_for(rig.running, DEADLINE_S)


async def test_several_servers_change_one_after_another(tmp_path: Path) -> None:
    fewest: list[int] = []
    async with running_fleet(tmp_path, settings(engines=3)) as rig:

        def serving() -> int:
            return sum(bool(engine.names) for engine in rig.fleet.engines)

        rig.publish(0)
        await rig.until(lambda: serving() == 3)
        watching = asyncio.create_task(watch(serving, fewest))
        stop = asyncio.Event()
        clients = [asyncio.create_task(rig.keep_asking(stop, streamed=False)) for _ in range(6)]
        for version in (1, 2):
            rig.publish(version)
            await rig.until_served(version)
            await rig.until(lambda: serving() == 3)
        stop.set()
        await asyncio.gather(*clients)
        watching.cancel()
    assert rig.failures == []
    assert min(fewest) == 2


async def watch(measure: Any, into: list[int]) -> None:
    while True:
        into.append(measure())
        await asyncio.sleep(0.001)


async def test_versions_share_servers_by_importance(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, settings(engines=2)) as rig:
        rig.publish(0)
        await rig.until(lambda: all(engine.names for engine in rig.fleet.engines))
        rig.announce(published(checkpoint(tmp_path, 1), 1), moved(1, "latest"))
        await rig.until_served(0, 1)
        assert (await rig.ask(f"{POLICY}#latest")).json()["model"] == f"{POLICY}@1"
        assert (await rig.ask(f"{POLICY}#serving")).json()["model"] == f"{POLICY}@0"


async def test_adapters_go_by_their_own_names_and_leave_when_idle(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, settings(max_loras=2)) as rig:
        rig.publish(0)
        await rig.until_served(0)
        for version in (1, 2, 3):
            folder = checkpoint(tmp_path, version, kind=WeightsKind.LORA)
            rig.announce(published(folder, version, kind=WeightsKind.LORA, parent=0), moved(version))
            await rig.until_among(version)
            answer = (await rig.ask()).json()
            assert answer["model"] == f"{POLICY}@{version}"
            assert set(answer["choices"][0]["message"]["content"].split()) == {f"v{version}"}
        await rig.until_served(0, 3)
        listed = (await rig.http.get("/v1/models")).json()["data"]
        assert {model["id"]: model["parent"] for model in listed} == {
            f"{POLICY}@0": None,
            f"{POLICY}@3": f"{POLICY}@0",
        }
        assert (await rig.configure(0))["resets"] == 0, "the base weights never changed"


async def test_an_adapter_that_no_server_may_hold_is_reported_and_its_base_stays(tmp_path: Path) -> None:
    def failures() -> float:
        labels = {"reason": "adapter"}
        return REGISTRY.get_sample_value("leyden_inference_load_failures_total", labels) or 0.0

    async with running_fleet(tmp_path, settings(max_loras=0)) as rig:
        rig.publish(0)
        await rig.until_served(0)
        before = failures()
        folder = checkpoint(tmp_path, 1, kind=WeightsKind.LORA)
        rig.announce(published(folder, 1, kind=WeightsKind.LORA, parent=0), moved(1))
        rig.announce()
        assert failures() == before + 1
        assert (await rig.ask()).json()["model"] == f"{POLICY}@0"


async def test_a_running_server_is_attached_to_and_left_running(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, settings()) as owner:
        owner.publish(0)
        await owner.until_served(0)
        url = owner.fleet.engines[0].client.url
        shutil.copytree(tmp_path / "v0", tmp_path / "other" / "v1")
        async with running_fleet(tmp_path / "more", settings(urls=[url])) as rig:
            rig.publish(5)
            await rig.until_served(5)
            assert (await rig.ask()).json()["choices"][0]["message"]["content"].split()[0] == "v5"
        assert (await owner.configure(0))["folder"].endswith("v5"), "still there"


async def test_replicas_take_turns_so_that_one_always_serves(tmp_path: Path) -> None:
    """Two services that know each other by address, with a server each."""
    async with (
        running_fleet(tmp_path / "a", settings()) as one,
        running_fleet(tmp_path / "b", settings()) as two,
    ):
        peers = [one.url, two.url]
        for place, rig in enumerate((one, two)):
            assert rig.fleet.turns is not None
            rig.fleet.turns.know(peers, place)
            rig.publish(0)
            await rig.until_served(0)
        fewest: list[int] = []
        watching = asyncio.create_task(watch(lambda: sum(bool(r.fleet.names) for r in (one, two)), fewest))
        for version in (1, 2, 3):
            two.publish(version)
            one.publish(version)
            await one.until_served(version)
        for rig in (one, two):
            await rig.until_served(3)
        watching.cancel()
    assert min(fewest) == 1


async def test_bad_requests_get_an_error_object(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, settings()) as rig:
        rig.publish(0)
        await rig.until_served(0)
        for content, status in [
            (b"{", 400),
            (b"[]", 400),
            (b'{"model": 7}', 400),
            (b"{}", 400),
            (b"\xff", 400),
        ]:
            answer = await rig.http.post("/v1/chat/completions", content=content)
            assert answer.status_code == status
            assert answer.json()["error"]["message"]
        assert (await rig.http.get("/v1/nothing")).status_code == 404
        huge = await rig.http.post("/v1/chat/completions", content=b" " * (9 * 1024 * 1024))
        assert huge.status_code == 413
        assert (await rig.http.get("/health")).status_code == 200
        models = (await rig.http.get("/v1/models")).json()["data"]
        assert [(model["id"], model["max_model_len"]) for model in models] == [(f"{POLICY}@0", 512)]


async def test_a_client_that_hangs_up_frees_its_place(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, settings()) as rig:
        rig.publish(0)
        await rig.until_served(0)
        asked = asyncio.create_task(rig.ask(tokens=10_000))
        await rig.until(lambda: rig.fleet.engines[0].open == 1)
        asked.cancel()
        await rig.until(lambda: rig.fleet.engines[0].open == 0)


async def test_waiting_requests_are_bounded(tmp_path: Path) -> None:
    chosen = settings(park_timeout_s=0.3, start_timeout_s=30.0, env={"FAKE_START": "hang"})
    async with running_fleet(tmp_path, chosen.model_copy(update={"max_queue": 2})) as rig:
        rig.publish(0)
        answers = await asyncio.gather(*(rig.ask() for _ in range(3)))
        assert {answer.status_code for answer in answers} == {503}
        codes = sorted(answer.json()["error"]["code"] for answer in answers)
        assert codes == ["model_loading", "model_loading", "queue_full"]


def pid(rig: Rig, engine: int) -> int:
    server = rig.fleet.engines[engine].server
    assert isinstance(server, VllmProcess)
    assert server.pid is not None
    return server.pid


def alive(rig: Rig, engine: int) -> bool:
    server = rig.fleet.engines[engine].server
    return isinstance(server, VllmProcess) and server.pid is not None
