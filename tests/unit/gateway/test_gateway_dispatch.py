"""The tries of one call over scripted servers: what is sent again, where, and what the caller is told."""

import asyncio
from time import perf_counter
from uuid import UUID, uuid4

import pytest
from routing_fakes import POLICY, A, B, FakeAnswer, FakeCall, Sent, begin, fleet, refuses, unreachable, until

from leyden_gateway.errors import MalformedAnswer, UpstreamTimedOut, UpstreamUnreachable
from leyden_gateway.upstream.errors import UpstreamRefused

V1 = f"{POLICY}@1"


def calls(count: int) -> list[FakeCall]:
    """Always the same rollouts, so that they hash to the same replicas."""
    return [FakeCall(UUID(int=number)) for number in range(count)]


async def test_a_call_holds_its_room_until_its_answer_is_closed() -> None:
    async with fleet(A) as routes:
        call = FakeCall()
        answer = await routes.open(call)
        assert (call.replica, call.queued_s) == (A, 0.0)
        assert call.sent is not None
        assert [(sent.path, sent.body) for sent in routes.upstream.sent] == [
            ("/v1/chat/completions", f"to {V1}".encode())
        ]
        assert routes.replicas.lane(A).in_flight == 1
        answer.close()
        assert routes.replicas.lane(A).in_flight == 0


async def test_the_first_try_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet(A) as routes:
        monkeypatch.setattr(
            "stamina.retry_context", lambda **_: pytest.fail("the retry machinery was entered")
        )
        await routes.open(FakeCall())


@pytest.mark.parametrize("status", [502, 503])
async def test_a_replica_that_is_unavailable_is_left_for_another(status: int) -> None:
    async with fleet(A, B) as routes:
        routes.upstream.answers[A] = refuses(status)
        for call in calls(8):
            await routes.open(call)
            assert call.replica == B
        assert A in routes.upstream.urls()
        assert routes.replicas.lane(A).in_flight == 0


async def test_a_replica_that_is_not_there_is_not_used_before_it_answers_a_look() -> None:
    async with fleet(A, B) as routes:
        for url in (A, B):
            routes.upstream.answers[url] = unreachable("connection")
        routes.upstream.models_of.clear()
        opening = asyncio.create_task(routes.open(FakeCall()))
        await until(lambda: not any(replica.healthy for replica in routes.replicas.describe()))
        sent = len(routes.upstream.sent)
        routes.upstream.answers.clear()
        routes.upstream.models_of = {B: {V1}}
        await opening
        assert routes.upstream.urls()[sent:] == [B]


async def test_tries_are_bounded_and_the_last_words_are_passed_on() -> None:
    async with fleet(A, attempts=2) as routes:
        routes.upstream.answers[A] = refuses(503, b"warming up")
        with pytest.raises(UpstreamRefused) as caught:
            await routes.open(FakeCall())
        assert (caught.value.status, caught.value.body) == (503, b"warming up")
        assert len(routes.upstream.sent) == 2


@pytest.mark.parametrize("attempts", [1, 2])
async def test_without_words_the_caller_is_told_what_happened(attempts: int) -> None:
    async with fleet(A, attempts=attempts) as routes:
        routes.upstream.answers[A] = unreachable()
        with pytest.raises(UpstreamUnreachable, match=f"in {attempts} tries: {A} is gone"):
            await routes.open(FakeCall())
        assert len(routes.upstream.sent) == attempts


@pytest.mark.parametrize("status", [400, 404, 422, 500, 504])
async def test_what_may_have_been_sampled_or_is_the_callers_fault_is_not_sent_again(status: int) -> None:
    async with fleet(A, B) as routes:
        routes.upstream.answers = dict.fromkeys((A, B), refuses(status))
        with pytest.raises(UpstreamRefused):
            await routes.open(FakeCall())
        assert len(routes.upstream.sent) == 1
        assert [lane.in_flight for lane in map(routes.replicas.lane, (A, B))] == [0, 0]


@pytest.mark.parametrize("failure", [UpstreamTimedOut("silent"), MalformedAnswer("not HTTP")])
async def test_silence_and_garbage_are_not_sent_again(failure: Exception) -> None:
    async def fail(_sent: Sent) -> FakeAnswer:
        raise failure

    async with fleet(A) as routes:
        routes.upstream.answers[A] = fail
        with pytest.raises(type(failure)):
            await routes.open(FakeCall())
        assert len(routes.upstream.sent) == 1


async def test_an_overloaded_replica_is_tried_elsewhere_once() -> None:
    async with fleet(A, B) as routes:
        routes.upstream.answers[A] = refuses(429)
        for call in calls(8):
            await routes.open(call)
            assert call.replica == B
        assert A in routes.upstream.urls()


async def test_when_all_are_overloaded_the_caller_is_told() -> None:
    async with fleet(A, B) as routes:
        routes.upstream.answers = dict.fromkeys((A, B), refuses(429))
        with pytest.raises(UpstreamRefused) as caught:
            await routes.open(FakeCall())
        assert caught.value.status == 429
        assert sorted(routes.upstream.urls()) == [A, B]


async def test_a_lone_overloaded_replica_is_not_pressed() -> None:
    async with fleet(A) as routes:
        routes.upstream.answers[A] = refuses(429)
        with pytest.raises(UpstreamRefused):
            await routes.open(FakeCall())
        assert len(routes.upstream.sent) == 1


async def test_retry_after_is_honoured_and_counted_as_waiting() -> None:
    async with fleet(A, retry_after_max_s=0.3) as routes:
        routes.upstream.answers[A] = refuses(429, retry_after="60")
        with pytest.raises(UpstreamRefused):
            await routes.open(FakeCall())
        routes.upstream.answers.clear()
        started, call = perf_counter(), FakeCall()
        await routes.open(call)
        assert 0.25 < perf_counter() - started < 2
        assert 0.25 < call.queued_s < 2


async def test_a_call_that_waits_for_room_says_how_long() -> None:
    async with fleet(A, replica_concurrency=1) as routes:
        answer = await routes.open(FakeCall())
        call = FakeCall()
        waiting = asyncio.create_task(routes.open(call))
        await until(lambda: routes.replicas.lane(A).waiting == 1)
        asyncio.get_running_loop().call_later(0.05, answer.close)
        await waiting
        assert 0.04 < call.queued_s < 2


async def test_a_caller_who_leaves_gives_back_its_room() -> None:
    async def never(_sent: Sent) -> FakeAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    async with fleet(A) as routes:
        routes.upstream.answers[A] = never
        opening = asyncio.create_task(routes.open(FakeCall()))
        await until(lambda: len(routes.upstream.sent) == 1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert routes.replicas.lane(A).in_flight == 0
        assert routes.replicas.lane(A).breaker.state.name == "CLOSED"


async def test_a_version_that_was_dropped_is_looked_for_once_more() -> None:
    async with fleet(A, B, poll_interval_s=30.0) as routes:
        call = FakeCall()
        (await routes.open(call)).close()
        home, other = (A, B) if call.replica == A else (B, A)
        gone = refuses(404, f"The model `{V1}` does not exist.".encode())
        routes.upstream.answers[home] = gone
        routes.upstream.models_of[home] = set()
        await routes.open(call)
        assert routes.upstream.urls() == [home, home, other]
        routes.upstream.answers[other] = gone
        with pytest.raises(UpstreamRefused):
            await routes.open(call)


async def test_failures_open_the_breaker_and_a_probe_closes_it() -> None:
    async with fleet(A, B, breaker_failures=2, breaker_open_s=0.5) as routes:
        routes.upstream.answers[A] = refuses(503)
        lane = routes.replicas.lane(A)
        for call in calls(20):
            (await routes.open(call)).close()
            if lane.breaker.state.name == "OPEN":
                break
        sent = routes.upstream.urls().count(A)
        assert sent == 2
        for call in calls(20):
            (await routes.open(call)).close()
        assert routes.upstream.urls().count(A) == sent, "it is left alone"
        routes.upstream.answers.clear()
        await until(lambda: lane.breaker.state.name == "HALF_OPEN")
        for call in calls(20):
            (await routes.open(call)).close()
        assert lane.breaker.state.name == "CLOSED"


async def test_a_replica_that_was_killed_and_came_back_is_used_at_once() -> None:
    async with fleet(A, breaker_failures=1, breaker_open_s=60, breaker_open_max_s=60) as routes:
        routes.upstream.answers[A] = unreachable("connection")
        routes.upstream.models_of.clear()
        opening = asyncio.create_task(routes.open(FakeCall()))
        await until(lambda: routes.replicas.describe()[0].breaker == "open")
        await until(lambda: not routes.replicas.describe()[0].healthy)
        routes.upstream.answers.clear()
        routes.upstream.models_of[A] = {V1}
        await opening
        assert routes.replicas.describe()[0].breaker == "closed"


async def test_client_errors_never_open_the_breaker() -> None:
    async with fleet(A, breaker_failures=1, breaker_min_calls=1, breaker_ratio=0.01) as routes:
        for status in (400, 401, 404, 422, 429, 500):
            routes.upstream.answers[A] = refuses(status)
            with pytest.raises(UpstreamRefused):
                await routes.open(FakeCall())
        assert routes.replicas.lane(A).breaker.state.name == "CLOSED"


async def test_answers_that_break_off_count_when_they_are_reported() -> None:
    async with fleet(A, breaker_failures=2) as routes:
        routes.upstream.answers[A] = begin
        for _ in range(2):
            call = FakeCall()
            answer = await routes.open(call)
            routes.dispatcher.report(call.choice, ok=False)
            routes.dispatcher.report(call.choice, ok=True)
            answer.close()
        assert routes.replicas.lane(A).breaker.state.name == "OPEN"
        routes.dispatcher.report(None, ok=False)


async def test_answers_that_end_well_count_for_the_server() -> None:
    async with fleet(A, breaker_failures=2, attempts=2) as routes:
        for _ in range(3):
            routes.upstream.answers[A] = refuses(504)
            with pytest.raises(UpstreamRefused):
                await routes.open(FakeCall(uuid4()))
            routes.upstream.answers.clear()
            call = FakeCall()
            answer = await routes.open(call)
            routes.dispatcher.report(call.choice, ok=True)
            answer.close()
        assert routes.replicas.lane(A).breaker.state.name == "CLOSED"
