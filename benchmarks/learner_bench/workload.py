"""Batches of rollouts with made-up tokens and stated lengths. Pure: the same seed gives the same batch.

A rollout is one row: a prompt that its group shares, then turns of sampled tokens with what the environment
answered in between.
"""

import math
import random
import statistics
from dataclasses import dataclass

VOCABULARY = 8_192
GROUP = 4
"""Rollouts of a task."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Its tokens; where each turn's sampled ones begin and end; and what it earned."""

    group: int
    token_ids: list[int]
    turns: list[tuple[int, int]]
    reward: float
    advantage: float

    @property
    def sampled(self) -> int:
        """Tokens that carry loss."""
        return sum(stop - start for start, stop in self.turns)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long things are, in tokens. Answers and observations are log-normal: (median, sigma, most)."""

    name: str
    prompt: tuple[int, int]
    answer: tuple[float, float, int]
    observation: tuple[float, float, int]
    stops: float
    """The chance that a turn is the last one."""
    most_turns: int
    longest: int


RAGGED = Lengths("ragged", (32, 256), (48.0, 0.8, 400), (40.0, 0.8, 300), 0.25, 12, 2048)
UNIFORM = Lengths("uniform", (64, 64), (256.0, 0.0, 256), (0.0, 0.0, 0), 1.0, 1, 320)
CASES = {lengths.name: lengths for lengths in (RAGGED, UNIFORM)}


def batch(lengths: Lengths, *, groups: int, vocabulary: int = VOCABULARY, seed: int = 0) -> list[Rollout]:
    """Groups of four rollouts, in each of which some earn 1 and some 0."""
    rng = random.Random(f"{lengths.name} {seed}")
    return [rollout for group in range(groups) for rollout in _group(lengths, group, vocabulary, rng)]


def _group(lengths: Lengths, group: int, vocabulary: int, rng: random.Random) -> list[Rollout]:
    prompt = _tokens(rng.randint(*lengths.prompt), vocabulary, rng)
    rewards = [1.0, 0.0, *(float(rng.random() < 0.5) for _ in range(GROUP - 2))]
    return [
        Rollout(group, *_row(lengths, prompt, vocabulary, rng), reward, advantage)
        for reward, advantage in zip(rewards, advantages(rewards), strict=True)
    ]


def _row(
    lengths: Lengths, prompt: list[int], vocabulary: int, rng: random.Random
) -> tuple[list[int], list[tuple[int, int]]]:
    token_ids, turns = list(prompt), []
    for turn in range(lengths.most_turns):
        if turn:
            token_ids += _tokens(_length(lengths.observation, rng), vocabulary, rng)
        start = len(token_ids)
        token_ids += _tokens(_length(lengths.answer, rng), vocabulary, rng)
        if len(token_ids) > lengths.longest:
            token_ids = token_ids[: lengths.longest]
        if start < len(token_ids):
            turns.append((start, len(token_ids)))
        if len(token_ids) == lengths.longest or rng.random() < lengths.stops:
            break
    return token_ids[: turns[-1][1]], turns


def _length(distribution: tuple[float, float, int], rng: random.Random) -> int:
    median, sigma, most = distribution
    return max(1, min(most, round(median * math.exp(rng.gauss(0.0, sigma)))))


def _tokens(count: int, vocabulary: int, rng: random.Random) -> list[int]:
    """The first few ids are kept for what tokenizers keep them for."""
    return [rng.randrange(8, vocabulary) for _ in range(count)]


def advantages(rewards: list[float], eps: float = 1e-4) -> list[float]:
    """Of GRPO, with the sample's deviation and TRL's eps."""
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / (deviation + eps) for reward in rewards]


def mask(turns: list[tuple[int, int]], first: int, end: int) -> list[int]:
    """1 where a token behind ``first`` was sampled."""
    found = [0] * (end - first)
    for start, stop in turns:
        found[start - first : stop - first] = [1] * (stop - start)
    return found


@dataclass(frozen=True, slots=True)
class Description:
    """What a batch holds, in tokens."""

    rollouts: int
    tokens: int
    sampled: int
    shortest: int
    median: float
    longest: int

    @property
    def padding(self) -> float:
        """Tokens with every row as long as the longest, to those there are."""
        return self.rollouts * self.longest / self.tokens


def describe(rollouts: list[Rollout]) -> Description:
    """Its counts."""
    sizes = [len(rollout.token_ids) for rollout in rollouts]
    return Description(
        rollouts=len(rollouts),
        tokens=sum(sizes),
        sampled=sum(rollout.sampled for rollout in rollouts),
        shortest=min(sizes),
        median=statistics.median(sizes),
        longest=max(sizes),
    )
