"""Waiting for what is away."""

import asyncio
from itertools import islice

import pytest

from leyden_learner.patience import Stopped, patiently, pauses


class Away(Exception):
    """Something did not answer."""


class Flaky:
    """Fails some times, then answers."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    async def __call__(self) -> str:
        """Answer, or fail once more."""
        if self.left:
            self.left -= 1
            raise Away(f"{self.left} more")
        return "here"


def test_pauses_grow_to_a_limit() -> None:
    assert list(islice(pauses(1.0, 5.0), 5)) == [1.0, 2.0, 4.0, 5.0, 5.0]


async def test_it_tries_until_it_works_and_tells_about_it() -> None:
    told: list[str | None] = []
    got = await patiently("it", Flaky(2), on=(Away,), stop=asyncio.Event(), failed=told.append)
    assert got == "here"
    assert told == ["it: 1 more", "it: 0 more", None]


async def test_a_stop_ends_the_wait_but_not_the_first_try() -> None:
    stop = asyncio.Event()
    stop.set()
    assert await patiently("it", Flaky(0), on=(Away,), stop=stop, failed=lambda _why: None) == "here"
    with pytest.raises(Stopped, match="it"):
        await patiently("it", Flaky(1), on=(Away,), stop=stop, failed=lambda _why: None)


async def test_a_deadline_ends_it_with_the_last_failure() -> None:
    with pytest.raises(Away):
        await patiently(
            "it", Flaky(99), on=(Away,), stop=asyncio.Event(), failed=lambda _why: None, deadline_s=0.05
        )


async def test_other_errors_pass_through() -> None:
    with pytest.raises(Away):
        await patiently("it", Flaky(1), on=(KeyError,), stop=asyncio.Event(), failed=lambda _why: None)
