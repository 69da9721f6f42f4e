"""What is measured: every case, and how long it takes."""

from dataclasses import dataclass
from typing import Literal

from gateway_bench.payload import SAMPLED_TOKENS

Kind = Literal["whole", "streamed", "paced", "processes", "slow", "trajectory"]
KINDS: tuple[Kind, ...] = ("whole", "streamed", "paced", "processes", "slow", "trajectory")
COMPARED: tuple[Kind, ...] = ("whole", "streamed", "paced")
"""Measured for every subject; the others for Leyden only."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of traffic at one concurrency. ``interval_s`` lies between the chunks of each stream."""

    kind: Kind
    concurrency: int
    interval_s: float = 0.0
    tokens: int = SAMPLED_TOKENS

    @property
    def name(self) -> str:
        """``whole-32``."""
        return f"{self.kind}-{self.concurrency}"

    @property
    def streamed(self) -> bool:
        """Whether answers are streams."""
        return self.kind in ("streamed", "paced", "slow")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of everything."""

    concurrency: tuple[int, ...] = (1, 32, 256)
    runs: int = 3
    seconds: float = 5.0
    warm_s: float = 1.0
    paced_streams: int = 64
    paced_chunks: int = SAMPLED_TOKENS
    slow_streams: int = 5000
    slow_chunks: int = 20
    turns: int = 100
    conversation_tokens: int = 32_000

    @classmethod
    def quick(cls) -> "Effort":
        """A smoke test: every path, numbers that mean little."""
        return cls(
            concurrency=(32,),
            runs=1,
            seconds=0.3,
            warm_s=0.2,
            paced_streams=16,
            paced_chunks=10,
            slow_streams=100,
            slow_chunks=2,
            turns=10,
            conversation_tokens=3_200,
        )

    def cases(self, kinds: tuple[Kind, ...]) -> list[Case]:
        """The chosen kinds at their concurrencies."""
        return [case for kind in kinds for case in self._of(kind)]

    def _of(self, kind: Kind) -> list[Case]:
        match kind:
            case "whole" | "streamed":
                return [Case(kind, concurrency) for concurrency in self.concurrency]
            case "paced":
                return [Case(kind, self.paced_streams, interval_s=0.02, tokens=self.paced_chunks)]
            case "processes":
                return [Case(kind, max(self.concurrency))]
            case "slow":
                return [Case(kind, self.slow_streams, interval_s=1.0, tokens=self.slow_chunks)]
            case "trajectory":
                return [Case(kind, 1)]
