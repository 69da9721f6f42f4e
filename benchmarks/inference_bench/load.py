"""The load: clients, each asking again as soon as it was answered; the same prompts for all."""

import asyncio
import random
import time
from dataclasses import dataclass, field

import aiohttp
import msgspec

from inference_bench.subjects import NAME

MAX_TOKENS = 64


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Answer(msgspec.Struct):
    usage: _Usage


@dataclass
class Counted:
    """What clients got within the time of a run."""

    tokens: int = 0
    all_tokens: int = 0
    """Those before and after the run too, for what they cost."""
    latencies_s: list[float] = field(default_factory=list)
    failures: int = 0


async def load(url: str, concurrency: int, seconds: float, seed: int) -> Counted:
    """Ask for ``seconds``, after every client has had one answer."""
    counted, measuring, stop = Counted(), asyncio.Event(), asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(base_url=url, connector=connector) as session:
        warm = [asyncio.Event() for _ in range(concurrency)]
        clients = [
            asyncio.create_task(
                _client(session, random.Random(seed * 1000 + n), warm[n], measuring, stop, counted)
            )
            for n in range(concurrency)
        ]
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in warm)), 120)
        measuring.set()
        await asyncio.sleep(seconds)
        stop.set()
        await asyncio.gather(*clients)
    return counted


async def _client(
    session: aiohttp.ClientSession,
    rng: random.Random,
    warm: asyncio.Event,
    measuring: asyncio.Event,
    stop: asyncio.Event,
    counted: Counted,
) -> None:
    while not stop.is_set():
        began = time.perf_counter()
        async with session.post("/v1/chat/completions", json=request(rng)) as response:
            body = await response.read()
        inside = measuring.is_set() and not stop.is_set()
        warm.set()
        if response.status != 200:
            counted.failures += 1
            continue
        tokens = msgspec.json.decode(body, type=_Answer).usage.completion_tokens
        counted.all_tokens += tokens
        if inside:
            counted.tokens += tokens
            counted.latencies_s.append(time.perf_counter() - began)


def request(rng: random.Random) -> dict[str, object]:
    """A question of the calculator's kind, answered at length, with what training needs."""
    question = f"{rng.randint(1, 99)} + {rng.randint(1, 99)} * {rng.randint(1, 99)}"
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": MAX_TOKENS,
        "ignore_eos": True,
        "logprobs": True,
        "return_token_ids": True,
    }
