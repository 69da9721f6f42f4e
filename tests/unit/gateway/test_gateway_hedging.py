"""Hedging: the first answer that begins wins, the other send is cancelled, and nothing leaks."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import REGISTRY
from routing_fakes import A, B, FakeAnswer, FakeCall, Fleet, Sent, fleet, refuses, until

from leyden_gateway.routing.hedge import first_begun
from leyden_gateway.upstream.errors import UpstreamRefused

LATE_S = 0.02


def hedges(outcome: str) -> float:
    return REGISTRY.get_sample_value("leyden_gateway_hedges_total", {"outcome": outcome}) or 0.0


def slow(gate: asyncio.Event) -> dict[str, Callable[[Sent], Awaitable[FakeAnswer]]]:
    """The first send that arrives, wherever, waits for ``gate``; any other answers."""
    arrived: list[Sent] = []

    async def answer(sent: Sent) -> FakeAnswer:
        arrived.append(sent)
        if sent is arrived[0]:
            await gate.wait()
        return FakeAnswer()

    return {A: answer, B: answer}


def in_flight(routes: Fleet) -> int:
    return sum(routes.replicas.lane(url).in_flight for url in (A, B))


async def test_it_is_off_by_default() -> None:
    async with fleet(A, B) as routes:
        gate = asyncio.Event()
        routes.upstream.answers.update(slow(gate))
        opening = asyncio.create_task(routes.open(FakeCall()))
        done, _ = await asyncio.wait([opening], timeout=5 * LATE_S)
        assert not done
        assert len(routes.upstream.sent) == 1
        gate.set()
        await opening


async def test_a_late_answer_is_asked_for_elsewhere_and_the_loser_is_cancelled() -> None:
    async with fleet(A, B, hedge_after_s=LATE_S) as routes:
        before = hedges("won")
        routes.upstream.answers.update(slow(asyncio.Event()))
        call = FakeCall()
        answer = await routes.open(call)
        first, second = routes.upstream.sent
        assert {first.url, second.url} == {A, B}
        assert call.replica == second.url
        await until(lambda: first.cancelled)
        await until(lambda: in_flight(routes) == 1)
        answer.close()
        assert in_flight(routes) == 0
        assert hedges("won") == before + 1


async def test_the_first_may_still_win() -> None:
    async with fleet(A, B, hedge_after_s=LATE_S) as routes:
        before, gate = hedges("lost"), asyncio.Event()

        async def answer(sent: Sent) -> FakeAnswer:
            if sent is routes.upstream.sent[0]:
                await gate.wait()
                return FakeAnswer()
            gate.set()
            await asyncio.Event().wait()
            raise AssertionError

        routes.upstream.answers.update({A: answer, B: answer})
        call = FakeCall()
        (await routes.open(call)).close()
        assert call.replica == routes.upstream.sent[0].url
        await until(lambda: routes.upstream.sent[1].cancelled)
        assert in_flight(routes) == 0
        assert hedges("lost") == before + 1


async def test_an_answer_in_time_is_not_hedged() -> None:
    async with fleet(A, B, hedge_after_s=5.0) as routes:
        (await routes.open(FakeCall())).close()
        assert len(routes.upstream.sent) == 1


async def test_with_nobody_else_to_ask_it_waits() -> None:
    async with fleet(A, hedge_after_s=LATE_S) as routes:
        before, gate = hedges("no_other"), asyncio.Event()
        routes.upstream.answers.update(slow(gate))
        opening = asyncio.create_task(routes.open(FakeCall()))
        await until(lambda: hedges("no_other") == before + 1)
        gate.set()
        await opening
        assert len(routes.upstream.sent) == 1


async def test_a_caller_who_leaves_cancels_both() -> None:
    async with fleet(A, B, hedge_after_s=LATE_S) as routes:

        async def never(_sent: Sent) -> FakeAnswer:
            await asyncio.Event().wait()
            raise AssertionError

        routes.upstream.answers.update({A: never, B: never})
        opening = asyncio.create_task(routes.open(FakeCall()))
        await until(lambda: len(routes.upstream.sent) == 2)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await until(lambda: all(sent.cancelled for sent in routes.upstream.sent))
        assert in_flight(routes) == 0


async def test_a_refusal_of_the_hedge_leaves_the_first_its_time() -> None:
    async with fleet(A, B, hedge_after_s=LATE_S) as routes:
        gate = asyncio.Event()

        async def answer(sent: Sent) -> FakeAnswer:
            if sent is routes.upstream.sent[0]:
                await gate.wait()
                return FakeAnswer()
            asyncio.get_running_loop().call_later(LATE_S, gate.set)
            return await refuses(400)(sent)

        routes.upstream.answers.update({A: answer, B: answer})
        (await routes.open(FakeCall())).close()
        assert in_flight(routes) == 0


async def test_when_both_fail_the_firsts_failure_is_told() -> None:
    async with fleet(A, B, hedge_after_s=LATE_S) as routes:
        gate = asyncio.Event()

        async def answer(sent: Sent) -> FakeAnswer:
            if sent is routes.upstream.sent[0]:
                await gate.wait()
                return await refuses(422)(sent)
            gate.set()
            return await refuses(400)(sent)

        routes.upstream.answers.update({A: answer, B: answer})
        with pytest.raises(UpstreamRefused) as caught:
            await routes.open(FakeCall())
        assert caught.value.status == 422
        assert in_flight(routes) == 0


async def test_of_two_that_succeed_at_once_one_is_discarded() -> None:
    together = asyncio.Event()
    discarded: list[str] = []

    async def attempt(name: str) -> str:
        if name == "second":
            together.set()
        await together.wait()
        return name

    won, outcome = await first_begun(
        attempt("first"), lambda: attempt("second"), after_s=0.0, discard=discarded.append
    )
    await until(lambda: bool(discarded))
    assert sorted([won, *discarded]) == ["first", "second"]
    assert outcome == ("won" if won == "second" else "lost")
