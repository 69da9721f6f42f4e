"""Where a call goes and what it waits for, on the real tables: overflow, turns, canaries, drains, reasons."""

import asyncio
from collections import Counter
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY
from prometheus_client.samples import Sample
from routing_fakes import POLICY, A, B, C, Fleet, fleet, moved, published, until

from leyden_gateway.errors import ModelNotFound, ModelUnavailable, ReplicasBusy, ReplicasFailing
from leyden_gateway.routing.choice import Choice
from leyden_gateway.routing.replicas import UnknownReplica

V1, V2 = f"{POLICY}@1", f"{POLICY}@2"


def take(routes: Fleet, rollout: UUID, ref: str = POLICY) -> Choice:
    """Room at once, which the test expects."""
    choice = routes.router.take(ref, rollout)
    assert choice
    return choice


def release(choice: Choice) -> None:
    """The call is over."""
    assert choice.slot
    choice.slot.release()


async def refused(routes: Fleet, ref: str = POLICY) -> str:
    """What a call is told that waited in vain."""
    with pytest.raises((ReplicasBusy, ReplicasFailing, ModelUnavailable)) as caught:
        await routes.router.wait(ref, uuid4())
    return f"{caught.value.reason}: {caught.value}"


async def test_turns_of_a_rollout_stay_with_their_replica() -> None:
    async with fleet(A, B, C) as routes:
        rollouts = [UUID(int=number) for number in range(30)]
        first = [take(routes, rollout).replica for rollout in rollouts]
        assert set(first) == {A, B, C}
        assert [take(routes, rollout).replica for rollout in rollouts] == first


async def test_a_full_replica_overflows_to_the_least_loaded() -> None:
    async with fleet(A, B, C, replica_concurrency=2) as routes:
        rollout = uuid4()
        home = take(routes, rollout).replica
        assert take(routes, rollout).replica == home
        others = [take(routes, rollout).replica for _ in range(4)]
        assert Counter(others) == dict.fromkeys({A, B, C} - {home}, 2)
        assert others[0] != others[1]
        assert routes.router.take(POLICY, rollout) is None


async def test_room_goes_to_those_who_wait_in_the_order_they_came() -> None:
    async with fleet(A, replica_concurrency=1) as routes:
        held = take(routes, uuid4())
        served: list[int] = []

        async def call(number: int) -> None:
            choice = await routes.router.wait(POLICY, uuid4())
            served.append(number)
            await asyncio.sleep(0)
            release(choice)

        calls = [asyncio.create_task(call(number)) for number in range(5)]
        await until(lambda: routes.replicas.lane(A).waiting == 5)
        calls[2].cancel()
        await until(lambda: routes.replicas.lane(A).waiting == 4)
        release(held)
        assert routes.router.take(POLICY, uuid4()) is None, "who comes later cannot overtake"
        await asyncio.gather(*calls, return_exceptions=True)
        assert served == [0, 1, 3, 4]
        assert routes.replicas.lane(A).in_flight == 0


async def test_a_caller_who_leaves_as_its_turn_comes_loses_no_room() -> None:
    async with fleet(A, replica_concurrency=1) as routes:
        held = take(routes, uuid4())
        leaving = asyncio.create_task(routes.router.wait(POLICY, uuid4()))
        await until(lambda: routes.replicas.lane(A).waiting == 1)
        release(held)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert routes.replicas.lane(A).in_flight == 0
        release(take(routes, uuid4()))


async def test_waiting_for_room_is_bounded_and_explained() -> None:
    async with fleet(A, B, replica_concurrency=1, park_timeout_s=0.05) as routes:
        take(routes, uuid4())
        take(routes, uuid4())
        text = await refused(routes)
        assert text.startswith(f"replicas_busy: every server of {POLICY} stayed at its limit")
        assert "(1)" in text
        assert [routes.replicas.lane(url).waiting for url in (A, B)] == [0, 0]


async def test_a_replica_that_appears_ends_the_wait_for_room() -> None:
    async with fleet(A, B, models={A: {V1}}, replica_concurrency=1) as routes:
        take(routes, uuid4())
        waiting = asyncio.create_task(routes.router.wait(POLICY, uuid4()))
        await until(lambda: routes.replicas.lane(A).waiting == 1)
        routes.upstream.models_of[B] = {V1}
        assert (await waiting).replica == B


async def test_a_version_is_waited_for() -> None:
    async with fleet(A) as routes:
        routes.apply(published(2))
        waiting = asyncio.create_task(routes.router.wait(V2, uuid4()))
        routes.upstream.models_of[A].add(V2)
        assert (await waiting).model == V2


async def test_a_version_that_nobody_serves_is_named() -> None:
    async with fleet(A, B, models={A: {V1}}, park_timeout_s=0.03) as routes:
        routes.apply(published(2))
        assert await refused(routes, V2) == (
            f"model_unavailable: no replica served {V2} within 0.03 s: "
            f"1 of 2 replicas answer, they serve {V1}"
        )


async def test_a_reference_nobody_knows_is_refused_at_once() -> None:
    async with fleet(A) as routes:
        with pytest.raises(ModelNotFound, match="known: calculator"):
            routes.router.take("poet", uuid4())
        routes.models.caught_up = False
        assert routes.router.take("poet", uuid4()) is None
        waiting = asyncio.create_task(routes.router.wait("poet", uuid4()))
        await asyncio.sleep(0)
        routes.models.caught_up = True
        routes.changes.announce()
        with pytest.raises(ModelNotFound):
            await waiting
        for name in ("leyden_gateway_park_waits_total", "leyden_gateway_queue_seconds_count"):
            assert all(sample.labels.get("policy") != "poet" for sample in samples(name)), (
                "made up by a caller"
            )


async def test_a_drained_replica_gets_no_new_calls() -> None:
    async with fleet(A, B, park_timeout_s=0.03) as routes:
        rollouts = [UUID(int=number) for number in range(20)]
        held = take(routes, rollouts[0])
        routes.replicas.drain(A)
        routes.replicas.drain(A)
        assert {take(routes, rollout).replica for rollout in rollouts} == {B}
        routes.replicas.drain(B)
        text = await refused(routes)
        assert text.startswith("replicas_failing")
        assert f"{A} is being drained; {B} is being drained" in text
        release(held)
        routes.replicas.undrain(A)
        assert {take(routes, rollout).replica for rollout in rollouts} == {A}


async def test_replicas_are_described_for_operators() -> None:
    async with fleet(A, B, models={A: {V1}}, replica_concurrency=7) as routes:
        take(routes, uuid4())
        routes.replicas.drain(A)
        first, second = routes.replicas.describe()
        assert (first.url, first.healthy, first.models, first.in_flight) == (A, True, [V1], 1)
        assert (first.breaker, first.draining, first.limit, first.waiting) == ("closed", True, 7, 0)
        assert (second.url, second.healthy, second.models, second.draining) == (B, False, [], False)
        with pytest.raises(UnknownReplica, match=f"there are: {A}, {B}"):
            routes.replicas.drain("http://elsewhere")


async def test_when_all_are_left_alone_the_reason_is_told() -> None:
    async with fleet(A, park_timeout_s=0.03, breaker_failures=1, breaker_open_s=30) as routes:
        choice = take(routes, uuid4())
        assert choice.slot
        choice.slot.settle(False, "it hung up")
        choice.slot.release()
        assert routes.router.take(POLICY, uuid4()) is None
        assert f"{A} keeps failing, last: it hung up" in await refused(routes)


async def test_a_call_waits_for_a_probe_to_be_due_and_others_for_its_success() -> None:
    async with fleet(A, breaker_failures=1, breaker_open_s=0.02) as routes:
        choice = take(routes, uuid4())
        assert choice.slot
        choice.slot.settle(False, "it hung up")
        choice.slot.release()
        calls = [asyncio.create_task(routes.router.wait(POLICY, uuid4())) for _ in range(3)]
        done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        probe = done.pop().result()
        assert probe.slot
        probe.slot.begin()
        await asyncio.wait(pending)
        assert all(call.result().replica == A for call in pending)


# Canaries


async def test_a_canary_takes_its_share_and_keeps_its_rollouts() -> None:
    async with fleet(A, B, models={A: {V1}, B: {V2}}, replica_concurrency=5000) as routes:
        routes.apply(published(2), moved(2, "canary", weight=0.25))
        rollouts = [UUID(int=number) for number in range(1000)]
        first = [take(routes, rollout).version for rollout in rollouts]
        assert 200 < first.count(2) < 300
        assert [take(routes, rollout).version for rollout in rollouts[:300]] == first[:300]
        assert {take(routes, rollout, f"{POLICY}#serving").version for rollout in rollouts[:50]} == {1}
        assert {take(routes, rollout, f"{POLICY}#canary").version for rollout in rollouts[:50]} == {2}


async def test_a_canary_nobody_can_serve_falls_back_to_serving() -> None:
    async with fleet(A, B, models={A: {V1}}) as routes:
        routes.apply(published(2), moved(2, "canary", weight=1.0))
        assert take(routes, uuid4()).version == 1
        routes.upstream.models_of[B] = {V2}
        routes.replicas.expect_change()
        await until(lambda: routes.replicas.describe()[1].healthy)
        assert take(routes, uuid4()).version == 2
        routes.replicas.drain(B)
        assert take(routes, uuid4()).version == 1


async def test_a_full_canary_is_waited_for_not_left() -> None:
    async with fleet(A, B, models={A: {V1}, B: {V2}}, replica_concurrency=1) as routes:
        routes.apply(published(2), moved(2, "canary", weight=1.0))
        held = take(routes, uuid4())
        assert routes.router.take(POLICY, uuid4()) is None
        waiting = asyncio.create_task(routes.router.wait(POLICY, uuid4()))
        await until(lambda: routes.replicas.lane(B).waiting == 1)
        release(held)
        assert (await waiting).version == 2


async def test_without_its_weight_an_alias_takes_nothing() -> None:
    async with fleet(A, B, models={A: {V1}, B: {V2}}) as routes:
        routes.apply(published(2), moved(2, "canary", weight=1.0))
        assert take(routes, uuid4()).version == 2
        routes.apply(moved(2, "canary"))
        assert take(routes, uuid4()).version == 1


async def test_overflow_is_counted_only_when_it_led_somewhere() -> None:
    async with fleet(A, replica_concurrency=1) as routes:
        before = overflowed(A)
        take(routes, uuid4())
        assert routes.router.take(POLICY, uuid4()) is None
        assert overflowed(A) == before


def samples(name: str) -> list[Sample]:
    return [sample for metric in REGISTRY.collect() for sample in metric.samples if sample.name == name]


def overflowed(url: str) -> float:
    """Calls that went elsewhere for want of room there."""
    return REGISTRY.get_sample_value("leyden_gateway_overflowed_total", {"replica": url}) or 0.0
